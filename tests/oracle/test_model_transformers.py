"""The runtime against transformers: same logits, same greedy tokens, for every family."""

from pathlib import Path

import model_lab as lab
import pytest
import torch

SMOLLM2 = Path(__file__).parents[2] / "models" / "demo" / "smollm2-135m-instruct"
PATH = ["a[0:3]", "b[1]", "b[1:3]", "a[2]", "a[1:4]"]
HOPS = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 1), ("b", 2)]
HOPS += [("a", 2), ("a", 1), ("a", 2), ("a", 3)]
SCALES = (0.8, 1.0, -1.2, 0.7, 1.3, 1.1, 0.9, 1.0, 0.75, 1.25)


@pytest.mark.parametrize("case", lab.FAMILY_CASES)
def test_identity_path_has_the_logits_of_transformers(case: str, tmp_path: Path) -> None:
    folder = lab.make_checkpoint(tmp_path / "a", **lab.FAMILY_CASES[case])
    ids = lab.random_ids(40)
    ours = lab.all_logits(lab.build(lab.open_recipe({"a": folder})), ids)
    with torch.no_grad():
        theirs = lab.load_reference(folder)(torch.tensor([ids])).logits[0]
    assert theirs.std() > 0.3
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", lab.FAMILY_CASES)
def test_greedy_tokens_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    folder = lab.make_checkpoint(tmp_path / "a", **lab.FAMILY_CASES[case])
    prompt = lab.random_ids(11, seed=3)
    ours = lab.greedy(lab.build(lab.open_recipe({"a": folder})), prompt, 64)
    generated = lab.load_reference(folder).generate(
        torch.tensor([prompt]), max_new_tokens=64, do_sample=False
    )
    assert ours == generated[0, len(prompt) :].tolist()


@pytest.mark.parametrize("target", ["mlp_output", "hidden_state"])
@pytest.mark.parametrize("case", ["llama", "mistral-window", "qwen2-window", "qwen3-tied-yarn"])
def test_a_scaled_path_with_repeats_is_the_model_unrolled_by_hand(
    case: str, target: str, tmp_path: Path
) -> None:
    folders = {
        name: lab.make_checkpoint(tmp_path / name, seed=seed, **lab.FAMILY_CASES[case])
        for name, seed in (("a", 1), ("b", 2))
    }
    scaling = {"target": target, "per_hop": list(SCALES)}
    model = lab.build(lab.open_recipe(folders, path=PATH, scaling=scaling))
    references = {name: lab.load_reference(folder) for name, folder in folders.items()}
    layers = [(references[name], index) for name, index in HOPS]
    prompt = lab.random_ids(12, seed=5)
    ids = prompt + lab.greedy(model, prompt, 64)
    theirs = lab.unroll(layers, SCALES, target, ids)
    torch.testing.assert_close(lab.all_logits(model, ids), theirs, atol=1e-4, rtol=1e-5)
    assert theirs[len(prompt) - 1 : -1].argmax(-1).tolist() == ids[len(prompt) :]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_transformers(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = lab.make_checkpoint(tmp_path / "a", **lab.FAMILY_CASES["qwen3"])
    ids = lab.random_ids(24)
    backend = lab.torch_backend("cpu", dtype)
    model = lab.build_model(
        lab.open_recipe({"a": folder}), lab.WeightStore(), backend, num_threads=1
    )
    with torch.no_grad():
        theirs = lab.load_reference(folder).to(dtype)(torch.tensor([ids])).logits[0].float()
    difference = (lab.all_logits(model, ids) - theirs).abs().mean() / theirs.std()
    assert difference < 8 * torch.finfo(dtype).eps


@pytest.mark.skipif(not SMOLLM2.exists(), reason="models/demo/smollm2-135m-instruct is not there")
def test_smollm2_has_the_logits_and_tokens_of_transformers() -> None:
    model = lab.build(lab.open_recipe({"a": SMOLLM2}))
    reference = lab.load_reference(SMOLLM2)
    prompt = [1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308]
    ours = lab.greedy(model, prompt, 64)
    ids = prompt + ours
    with torch.no_grad():
        theirs = reference(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(lab.all_logits(model, ids), theirs, atol=1e-4, rtol=0)
    assert theirs[len(prompt) - 1 : -1].argmax(-1).tolist() == ours
