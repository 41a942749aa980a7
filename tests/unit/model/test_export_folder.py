"""Export: the folder's life, its files, and what a stock config cannot say."""

import json
import shutil
from pathlib import Path
from typing import Any

import model_lab as lab
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from evoserve.errors import ConfigError, ManifestError, SourceError
from evoserve.manifest.parts import GenerationSpec
from evoserve.model.export import export_checkpoint
from evoserve.model.export_config import generation_config
from evoserve.model.shards import TensorSlot, plan_shards
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = lab.make_checkpoint(tmp_path / "a", **lab.FAMILY_CASES["llama"])
    (made / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "auto_map": {"AutoTokenizer": ["evil.py", None]},
    }
    (made / "tokenizer_config.json").write_text(json.dumps(config))
    (made / "generation_config.json").write_text('{"eos_token_id": [1], "temperature": 0.6}')
    (made / "evil.py").write_text("raise SystemExit")
    return made


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def test_the_folder_has_everything_and_no_code(folder: Path, tmp_path: Path) -> None:
    recipe = lab.open_recipe(
        {"a": folder},
        description="A test.",
        license="Apache-2.0",
        chat_template="{{ messages }}",
        generation={"temperature": 0.0, "max_tokens": 7},
    )
    report = export_checkpoint(recipe, tmp_path / "out")
    assert list(report.files) == names(tmp_path / "out")
    assert names(tmp_path / "out") == [
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert read(tmp_path / "out", "tokenizer_config.json") == {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    assert read(tmp_path / "out", "generation_config.json") == {
        "eos_token_id": [1],
        "do_sample": False,
        "max_new_tokens": 7,
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\n")
    for part in ('license: "apache-2.0"', "A test.", '"format": "evoserve/1"', "Apache-2.0."):
        assert part in card
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_an_empty_folder_is_taken_and_a_full_one_refused(folder: Path, tmp_path: Path) -> None:
    recipe = lab.open_recipe({"a": folder})
    (tmp_path / "out").mkdir()
    export_checkpoint(recipe, tmp_path / "out")
    before = (tmp_path / "out" / "config.json").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        export_checkpoint(recipe, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        export_checkpoint(recipe, folder / "config.json")
    assert (tmp_path / "out" / "config.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_export_leaves_nothing(
    fault: BaseException, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(type(fault)):
        export_checkpoint(lab.open_recipe({"a": folder}), tmp_path / "out")
    assert names(tmp_path) == ["a"]


def test_a_bad_source_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(SourceError, match=r"'model.norm.weight' of model 'a' holds NaN"):
        export_checkpoint(lab.open_recipe({"a": folder}), tmp_path / "out")
    assert names(tmp_path) == ["a"]


def test_a_scale_that_overflows_the_dtype_is_named(folder: Path, tmp_path: Path) -> None:
    recipe = lab.open_recipe(
        {"a": folder}, path=["a[0:4]"], scaling={"per_hop": [1.0, 1e4, 1e4, 1.0]}
    )
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0] = 10.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    recipe = Recipe(recipe.manifest, {"a": open_checkpoint(folder)})
    with pytest.raises(ManifestError, match=r"scale 10000 .*overflows torch.float16"):
        export_checkpoint(recipe, tmp_path / "out", dtype=torch.float16)
    export_checkpoint(recipe, tmp_path / "out", dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"rms_norm_eps": 1e-3}, "rms_norm_eps is 1e-06 at a.0. but 0.001 at b.1."),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, "rotary embedding is"),
        ({"intermediate_size": 64}, "intermediate_size is 48 at a.0. but 64 at b.1."),
        ({"attention_bias": True}, "attention_bias is False"),
        ({"model_type": "mistral", "sliding_window": 5}, "sliding windows .'5', 'None'. fit no"),
        ({"model_type": "qwen3", "head_dim": 8}, "qk_norm is False"),
    ],
)
def test_a_path_that_no_stock_config_expresses_is_refused_but_served(
    other: dict[str, Any], message: str, folder: Path, tmp_path: Path
) -> None:
    config = {**lab.FAMILY_CASES["llama"], **other}
    lab.make_checkpoint(tmp_path / "b", seed=2, **config)
    recipe = lab.open_recipe({"a": folder, "b": tmp_path / "b"}, path=["a[0]", "b[1]", "a[3]"])
    with pytest.raises(ManifestError, match=message):
        export_checkpoint(recipe, tmp_path / "out")
    assert lab.all_logits(lab.build(recipe), [1, 2, 3]).isfinite().all()
    assert not (tmp_path / "out").exists()


def test_llama_and_unwindowed_mistral_layers_can_mix(folder: Path, tmp_path: Path) -> None:
    lab.make_checkpoint(tmp_path / "b", seed=2, **lab.FAMILY_CASES["mistral"])
    recipe = lab.open_recipe({"a": folder, "b": tmp_path / "b"}, path=["a[0]", "b[1]", "a[3]"])
    export_checkpoint(recipe, tmp_path / "out")
    again = lab.build(lab.open_recipe({"out": tmp_path / "out"}))
    assert torch.equal(
        lab.all_logits(again, [1, 2, 3]), lab.all_logits(lab.build(recipe), [1, 2, 3])
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 100))
def test_shards_keep_order_and_limit(sizes: list[int], limit: int) -> None:
    slots = [TensorSlot(str(index), (size,)) for index, size in enumerate(sizes)]
    shards = plan_shards(slots, torch.float16, limit)
    assert [slot for shard in shards for slot in shard] == slots
    for shard in shards:
        assert shard
        assert len(shard) == 1 or sum(slot.num_bytes(torch.float16) for slot in shard) <= limit


def test_generation_defaults_go_over_the_sources() -> None:
    source = {"_from_model_config": True, "eos_token_id": 2, "top_k": 50, "temperature": 0.6}
    spec = GenerationSpec(temperature=0.3, top_p=0.9, repetition_penalty=1.1)
    assert generation_config(source, spec) == {
        "eos_token_id": 2,
        "top_k": 50,
        "temperature": 0.3,
        "top_p": 0.9,
        "do_sample": True,
        "repetition_penalty": 1.1,
    }
    assert generation_config(source, GenerationSpec())["temperature"] == 0.6


def test_a_union_of_vocabularies_is_exported_with_its_tokens(folder: Path, tmp_path: Path) -> None:
    other = lab.make_checkpoint(tmp_path / "b", seed=2, **lab.FAMILY_CASES["llama"])
    added = {"id": 2, "content": "<x>", "special": True, "single_word": False, "lstrip": False}
    added.update(rstrip=False, normalized=False)
    (other / "tokenizer.json").write_text(json.dumps({**TOKENIZER, "added_tokens": [added]}))
    merges = {"m": {"method": "linear", "weights": {"a": 0.5, "b": 0.5}}}
    recipe = lab.open_recipe({"a": folder, "b": other}, merges=merges, tokenizer="union")
    export_checkpoint(recipe, tmp_path / "out")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert tokenizer.encode("<x>") == [2]
    assert "auto_map" not in read(tmp_path / "out", "tokenizer_config.json")
    again = lab.build(lab.open_recipe({"out": tmp_path / "out"}))
    assert torch.equal(
        lab.all_logits(again, [0, 1, 2]), lab.all_logits(lab.build(recipe), [0, 1, 2])
    )
