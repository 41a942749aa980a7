"""Building: layers are shared among steps and recipes, faults leave the store as it was."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import model_lab as lab
import pytest
import torch
from safetensors.torch import load_file, save_file

from evoserve.errors import SourceError
from evoserve.model.build import release


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {
        name: lab.make_checkpoint(tmp_path / name, seed=seed, **lab.FAMILY_CASES["llama"])
        for name, seed in (("a", 1), ("b", 2))
    }


def damage(folder: Path, name: str, value: float) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[name].view(-1)[3] = value
    save_file(tensors, file, metadata={"format": "pt"})


def test_repeated_layers_and_a_tied_head_are_held_once(folders: dict[str, Path]) -> None:
    store = lab.WeightStore()
    plain = lab.build(lab.open_recipe({"a": folders["a"]}), store)
    before = store.num_bytes
    twice = lab.build(lab.open_recipe({"a": folders["a"]}, path=["a[0:4]", "a[0:4]"]), store)
    assert store.num_bytes == before == plain.weight_bytes == twice.weight_bytes
    assert (twice.num_steps, twice.num_layers) == (8, 4)
    tensors = load_file(folders["a"] / "model.safetensors")
    assert before == sum(tensor.nbytes for tensor in tensors.values())
    release(plain)
    assert store.num_bytes == before
    release(twice)
    release(twice)
    assert store.num_bytes == 0


def test_recipes_share_the_layers_they_have_in_common(folders: dict[str, Path]) -> None:
    store = lab.WeightStore()
    one = lab.build(lab.open_recipe({"a": folders["a"]}), store)
    before = store.num_bytes
    two = lab.build(
        lab.open_recipe(folders, path=["a[0:4]", "b[2]", "a[3]"], scaling={"default": 0.9}), store
    )
    tensors = load_file(folders["b"] / "model.safetensors")
    layer = sum(tensor.nbytes for name, tensor in tensors.items() if ".layers.2." in name)
    assert store.num_bytes - before == layer
    assert two.weight_bytes == store.num_bytes
    release(one)
    assert store.num_bytes == two.weight_bytes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_leaks(
    value: float, folders: dict[str, Path]
) -> None:
    store = lab.WeightStore()
    held = lab.build(lab.open_recipe({"a": folders["a"]}), store)
    users = store.users()
    damage(folders["b"], "model.layers.2.mlp.up_proj.weight", value)
    with pytest.raises(SourceError, match=r"'model.layers.2.mlp.up_proj.weight' of model 'b'"):
        lab.build(lab.open_recipe(folders, path=["a[0:4]", "b[2]", "a[3]"]), store)
    assert store.users() == users
    release(held)
    assert store.num_bytes == 0


def test_huge_finite_weights_are_not_mistaken_for_infinity(folders: dict[str, Path]) -> None:
    file = folders["a"] / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.input_layernorm.weight"].fill_(3e38)
    save_file(tensors, file, metadata={"format": "pt"})
    assert lab.build(lab.open_recipe({"a": folders["a"]})).num_layers == 4


def test_two_builds_at_once_make_one_set_of_weights(folders: dict[str, Path]) -> None:
    store = lab.WeightStore()
    recipes = [lab.open_recipe({"a": folders["a"]}) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda recipe: lab.build(recipe, store), recipes))
    ids = lab.random_ids(9)
    first = lab.all_logits(models[0], ids)
    assert all(torch.equal(lab.all_logits(model, ids), first) for model in models)
    assert store.num_bytes == models[0].weight_bytes
    for model in models:
        release(model)
    assert store.users() == {}


def test_dtypes_do_not_share(folders: dict[str, Path]) -> None:
    store = lab.WeightStore()
    recipe = lab.open_recipe({"a": folders["a"]})
    full = lab.build(recipe, store)
    half = lab.build_model(recipe, store, lab.torch_backend("cpu", torch.bfloat16), num_threads=2)
    assert half.dtype == torch.bfloat16
    assert half.weight_bytes * 2 == full.weight_bytes
    assert store.num_bytes == full.weight_bytes + half.weight_bytes
