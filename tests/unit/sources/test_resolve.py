"""A manifest resolved against real folders: what fits opens, what does not is named."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from evoserve.errors import DigestMismatch, IncompatibleSources, SourceError, UnsupportedModel
from evoserve.manifest.canonical import digest
from evoserve.manifest.schema import Manifest
from evoserve.sources.digest import adapter_digest, source_digest
from evoserve.sources.locate import SourceLocator
from evoserve.sources.recipe import Recipe
from evoserve.sources.resolve import pinned, resolve_recipe

Make = Callable[..., Manifest]
LINEAR = {"method": "linear", "weights": {"a": 1.0, "b": 0.5}}


@pytest.fixture
def two(tmp_path: Path, save_model: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """Sources a and b; keyword arguments change the config of b."""

    def build(**changes: Any) -> dict[str, Any]:
        family = changes.pop("family", "llama")
        return {
            "a": save_model(tmp_path / "a"),
            "b": save_model(tmp_path / "b", family, seed=1, **changes),
        }

    return build


def resolve(manifest: Manifest, **options: bool) -> Recipe:
    return resolve_recipe(manifest, SourceLocator(offline=True), **options)


def test_sources_are_open_in_the_manifests_order(two: Callable[..., Any], manifest: Make) -> None:
    built = manifest(two(), merges={"m": LINEAR}, path=["m[0:2]", "b[1]", "m[1]"])
    recipe = resolve(built)
    assert list(recipe.checkpoints) == ["a", "b"]
    assert [str(ref) for ref in recipe.steps()] == ["m[0]", "m[1]", "b[1]", "m[1]"]
    assert recipe.warnings == ()
    assert recipe.architecture("m") == recipe.checkpoints["a"].architecture
    assert recipe.checkpoints["a"].digest is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hidden_size": 32},
            "merge 'm': hidden_size 16 of 'a' != 32 of 'b' (tensor input_layernorm.weight: [16] "
            "and [32])",
        ),
        ({"num_hidden_layers": 3}, "merge 'm': num_layers 2 of 'a' != 3 of 'b'"),
        (
            {"num_key_value_heads": 1},
            "merge 'm': num_kv_heads 2 of 'a' != 1 of 'b' (tensor self_attn.k_proj.weight: [8, 16] "
            "and [4, 16])",
        ),
        (
            {"intermediate_size": 40},
            "merge 'm': intermediate_size 24 of 'a' != 40 of 'b' (tensor mlp.gate_proj.weight: "
            "[24, 16] and [40, 16])",
        ),
        (
            {"family": "qwen2"},
            "merge 'm': attention_bias False of 'a' != True of 'b' (tensor self_attn.q_proj.bias: "
            "absent and [16])",
        ),
        ({"family": "qwen3"}, "merge 'm': qk_norm False of 'a' != True of 'b'"),
    ],
)
def test_what_cannot_be_merged_is_named(
    two: Callable[..., Any], manifest: Make, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(IncompatibleSources, match="^" + re.escape(message)):
        resolve(manifest(two(**changes), merges={"m": LINEAR}))


def test_a_tied_base_would_drop_the_others_head(two: Callable[..., Any], manifest: Make) -> None:
    sources = two(tie_word_embeddings=True)
    resolve(manifest(sources, merges={"m": LINEAR}))
    turned = {"a": sources["b"], "b": sources["a"]}
    with pytest.raises(
        IncompatibleSources, match=r"'m' would drop the head of 'b': .* True of 'a' != False of 'b'"
    ):
        resolve(manifest(turned, merges={"m": LINEAR}))
    path = ["a[0]", "m[0]", "a[1]"]
    assert resolve(manifest(turned, merges={"m": LINEAR}, path=path)).warnings == ()


def test_inner_merges_are_compared_too(two: Callable[..., Any], manifest: Make) -> None:
    merges = {
        "inner": {"method": "linear", "weights": {"b": 1.0}},
        "outer": {"method": "linear", "weights": {"a": 1.0, "inner": 1.0}},
    }
    with pytest.raises(
        IncompatibleSources, match="merge 'outer': hidden_size 16 of 'a' != 32 of 'inner'"
    ):
        resolve(manifest(two(hidden_size=32), merges=merges))


def test_a_path_needs_equal_seams_only(two: Callable[..., Any], manifest: Make) -> None:
    sources = two(num_hidden_layers=4, intermediate_size=40, vocab_size=64, rms_norm_eps=1e-3)
    recipe = resolve(manifest(sources, path=["a[0:2]", "b[3]", "a[1]"]))
    assert recipe.warnings == ()
    with pytest.raises(IncompatibleSources, match=r"path step b\[4\]: model 'b' has layers 0 to 3"):
        resolve(manifest(sources, path=["a[0:2]", "b[3:5]", "a[1]"]))


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 32}, {"num_key_value_heads": 4}, {"head_dim": 8}]
)
def test_a_path_with_unequal_seams(
    two: Callable[..., Any], manifest: Make, changes: dict[str, Any]
) -> None:
    with pytest.raises(IncompatibleSources, match=r"the path: .* of 'a' != .* of 'b'"):
        resolve(manifest(two(**changes), path=["a[0]", "b[1]", "a[1]"]))


def test_numeric_differences_are_warnings(two: Callable[..., Any], manifest: Make) -> None:
    sources = two(
        family="mistral",
        rms_norm_eps=1e-3,
        rope_parameters={"rope_theta": 5.0, "rope_type": "default"},
        sliding_window=8,
    )
    recipe = resolve(manifest(sources, merges={"m": LINEAR}))
    fields = [warning.split()[2] for warning in recipe.warnings]
    assert fields == ["family", "rms_norm_eps", "rope", "windows"]
    assert all("'a' and 'b' differ" in warning for warning in recipe.warnings)


def test_a_group_beyond_the_last_layer(two: Callable[..., Any], manifest: Make) -> None:
    merge = {**LINEAR, "groups": ["layers[0:2]", "layers[1:3]", "all"]}
    with pytest.raises(IncompatibleSources, match=r"groups\[1\] 'layers\[1:3\]'.*0 to 1"):
        resolve(manifest(two(), merges={"m": merge}))


def test_digests(two: Callable[..., Any], manifest: Make) -> None:
    sources = two()
    right = source_digest(sources["a"])
    wrong = "sha256:" + "0" * 64
    document = {"model": str(sources["a"]), "digest": right}
    recipe = resolve(manifest({**sources, "a": document}, merges={"m": LINEAR}))
    assert recipe.checkpoints["a"].digest == right
    assert recipe.checkpoints["b"].digest is None
    tampered = manifest({**sources, "a": {**document, "digest": wrong}}, merges={"m": LINEAR})
    with pytest.raises(DigestMismatch, match=rf"'a' has digest {right[7:19]}, .* 000000000000;"):
        resolve(tampered)
    assert resolve(tampered, verify=False).checkpoints["a"].digest is None


def test_pinned_carries_every_digest(
    tmp_path: Path, two: Callable[..., Any], tiny_model: Callable[..., Any], manifest: Make
) -> None:
    sources = two()
    wrapped = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["q_proj"]))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    wrapped.save_pretrained(tmp_path / "lora")
    documents = {
        "a": {"model": str(sources["a"])},
        "b": {"model": str(sources["b"]), "adapter": {"model": str(tmp_path / "lora")}},
    }
    plain = manifest(documents, merges={"m": LINEAR}, description="kept")
    recipe = resolve(plain)
    name = "model.layers.0.self_attn.q_proj.weight"
    folded = recipe.checkpoints["b"].tensors.read(name)
    direct = resolve(manifest({"b": sources["b"]})).checkpoints["b"].tensors.read(name)
    assert not torch.equal(folded, direct)
    fixed = pinned(plain, recipe)
    assert fixed.sources["a"].digest == source_digest(sources["a"])
    adapter = fixed.sources["b"].adapter
    assert adapter is not None
    assert adapter.digest == adapter_digest(tmp_path / "lora")
    assert fixed.description == "kept"
    assert fixed.merges == plain.merges
    assert digest(fixed) != digest(plain)
    verified = resolve(fixed)
    assert verified.checkpoints["b"].digest == f"{fixed.sources['b'].digest}+{adapter.digest}"
    assert pinned(fixed, verified) == fixed
    config = tmp_path / "lora" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 1}))
    with pytest.raises(DigestMismatch, match=r"'b \(adapter\)'"):
        resolve(fixed)


def test_every_error_names_the_source(two: Callable[..., Any], manifest: Make) -> None:
    sources = two()
    (sources["b"] / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(SourceError, match=r"^source 'b': .*not a whole safetensors file"):
        resolve(manifest(sources, merges={"m": LINEAR}))
    (sources["a"] / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UnsupportedModel, match=r"^source 'a': model_type 'bert'"):
        resolve(manifest(sources, merges={"m": LINEAR}))
    with pytest.raises(SourceError, match=r"^source 'c': '/gone' was not found"):
        resolve(manifest({"c": {"model": "/gone"}}))
