"""An exported path in transformers: the same logits and greedy tokens as the served recipe."""

import json
from pathlib import Path
from typing import Any

import model_lab as lab
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evoserve.model.export import export_checkpoint
from evoserve.sources.checkpoint import open_checkpoint

SMOLLM2 = Path(__file__).parents[2] / "models" / "demo" / "smollm2-135m-instruct"
PATH = ["a[0:3]", "b[1]", "b[1:3]", "a[2]", "a[1:4]"]
NUM_STEPS = 10
NUM_TOKENS = 64
TARGETS = ["mlp_output", "hidden_state"]
NEGATIVE = (0, 3, 4, 8)


def random_scales(count: int, seed: int) -> list[float]:
    """In [0.7, 1.3], some of them negative (hop 0 and two in a row among them)."""
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.7
    drawn[[hop for hop in NEGATIVE if hop < count]] *= -1
    return drawn.tolist()


def exported(folder: Path) -> Any:
    """As a stranger would load it: no remote code, dtype from the config."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, attn_implementation="eager"
    ).eval()
    assert model.dtype == torch.float32
    return model


def assert_same_text(model: lab.PathModel, reference: Any, prompt: list[int], atol: float) -> None:
    """64 of 64 greedy tokens, and all logits on the way within `atol`."""
    ours = lab.greedy(model, prompt, NUM_TOKENS)
    ids = prompt + ours
    with torch.no_grad():
        theirs = reference(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(lab.all_logits(model, ids), theirs, atol=atol, rtol=1e-4)
    assert theirs[len(prompt) - 1 : -1].argmax(-1).tolist() == ours


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("case", lab.FAMILY_CASES)
def test_scaled_paths_fold_into_stock_checkpoints(case: str, target: str, tmp_path: Path) -> None:
    folders = {
        name: lab.make_checkpoint(tmp_path / name, seed=seed, **lab.FAMILY_CASES[case])
        for name, seed in (("a", 1), ("b", 2))
    }
    scaling = {"target": target, "per_hop": random_scales(NUM_STEPS, len(case))}
    path = PATH
    if case == "qwen2-window":
        path = ["a[0:2]", "b[1]", "a[2]", "b[0:3]", "a[2]", "b[0]", "a[3]"]
    recipe = lab.open_recipe(folders, path=path, scaling=scaling)
    report = export_checkpoint(recipe, tmp_path / "out")
    reference = exported(tmp_path / "out")
    assert report.num_layers == reference.config.num_hidden_layers == NUM_STEPS
    assert reference.config.model_type == lab.FAMILY_CASES[case]["model_type"]
    assert_same_text(lab.build(recipe), reference, lab.random_ids(9, seed=4), atol=2e-4)


def test_an_exported_path_is_served_like_the_recipe(tmp_path: Path) -> None:
    folder = lab.make_checkpoint(tmp_path / "a", seed=1, **lab.FAMILY_CASES["mistral-window"])
    scaling = {"per_hop": random_scales(6, 8)}
    recipe = lab.open_recipe({"a": folder}, path=["a[0:2]", "a[0:4]"], scaling=scaling)
    export_checkpoint(recipe, tmp_path / "out")
    again = lab.build(lab.open_recipe({"out": tmp_path / "out"}))
    ids = lab.random_ids(30)
    torch.testing.assert_close(
        lab.all_logits(again, ids), lab.all_logits(lab.build(recipe), ids), atol=1e-4, rtol=1e-4
    )


def test_shards_hold_the_same_tensors_as_one_file(tmp_path: Path) -> None:
    folder = lab.make_checkpoint(tmp_path / "a", **lab.FAMILY_CASES["llama"])
    recipe = lab.open_recipe({"a": folder})
    export_checkpoint(recipe, tmp_path / "one")
    report = export_checkpoint(recipe, tmp_path / "many", max_shard_bytes=20_000)
    shards = [file for file in report.files if file.endswith(".safetensors")]
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    assert len(shards) > 3
    assert set(index["weight_map"].values()) == set(shards)
    assert index["metadata"]["total_size"] == report.num_bytes
    sizes = [(tmp_path / "many" / name).stat().st_size for name in shards]
    assert max(sizes) < 20_000 + 4096
    whole, parts = (open_checkpoint(tmp_path / name).tensors for name in ("one", "many"))
    assert whole.names() == parts.names()
    original = open_checkpoint(folder).tensors
    for name in whole.names():
        assert torch.equal(whole.read(name), parts.read(name))
        assert torch.equal(whole.read(name), original.read(name))
    assert exported(tmp_path / "many").config.tie_word_embeddings


def test_a_merge_on_a_path_is_exported_with_its_dtype(tmp_path: Path) -> None:
    folders = {
        name: lab.make_checkpoint(tmp_path / name, seed=seed, **lab.FAMILY_CASES["llama"])
        for name, seed in (("a", 1), ("b", 2))
    }
    merges = {"m": {"method": "linear", "dtype": "bfloat16", "weights": {"a": 0.6, "b": 0.4}}}
    recipe = lab.open_recipe(folders, merges=merges, path=["m[0:4]", "b[2]", "m[3]"])
    report = export_checkpoint(recipe, tmp_path / "out", dtype=torch.float32)
    assert_same_text(lab.build(recipe), exported(tmp_path / "out"), lab.random_ids(9), atol=1e-4)
    half = export_checkpoint(recipe, tmp_path / "half")
    assert half.dtype == torch.bfloat16
    assert half.num_bytes * 2 == report.num_bytes


@pytest.mark.skipif(not SMOLLM2.exists(), reason="models/demo/smollm2-135m-instruct is not there")
@pytest.mark.parametrize("target", TARGETS)
def test_smollm2_path_of_36_steps_exports(target: str, tmp_path: Path) -> None:
    path = ["a[0:12]", "a[9:15]", "a[12:30]"]
    scaling = {"target": target, "per_hop": random_scales(36, 5)}
    recipe = lab.open_recipe({"a": SMOLLM2}, path=path, scaling=scaling)
    export_checkpoint(recipe, tmp_path / "out", dtype=torch.float32)
    prompt = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308]
    atol = 2e-3 if target == "mlp_output" else 0.2  # docs/paths.md: eps, logits reach 40
    assert_same_text(lab.build(recipe), exported(tmp_path / "out"), prompt, atol=atol)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer.encode("round trip")) == "round trip"
    assert tokenizer.chat_template
