"""Building in a stream: the same bits on any threads, few drafts, nothing kept by an error."""

import gc
import threading
import weakref
from pathlib import Path

import model_lab as lab
import pytest
import torch
from safetensors.torch import load_file, save_file

from evoserve.errors import SourceError
from evoserve.merge.expression import RecipeTensors
from evoserve.model import produce
from evoserve.model.backend import choose_backend
from evoserve.model.blueprint import Blueprint, Draft, Part, layer_blueprint
from evoserve.model.estimate import estimate, kv_bytes_per_block
from evoserve.model.layer import LayerWeights
from evoserve.model.linear import DenseLinear, Linear, Table
from evoserve.model.placement import Placement, choose_placement
from evoserve.model.plan import plan_path
from evoserve.model.produce import produce_weights

MERGE = {
    "method": "dare_ties",
    "base": "a",
    "seed": 1,
    "dtype": "bfloat16",
    "weights": {"b": 0.7},
    "densities": {"b": 0.5},
}


@pytest.fixture
def recipe(tmp_path: Path) -> lab.Recipe:
    folders = {
        name: lab.make_checkpoint(tmp_path / name, seed=seed, **lab.FAMILY_CASES["qwen2"])
        for name, seed in (("a", 1), ("b", 2))
    }
    return lab.open_recipe(folders, merges={"ps": MERGE})


def layers(recipe: lab.Recipe, placement: Placement) -> list[Blueprint]:
    tensors = RecipeTensors(recipe)
    return [
        layer_blueprint(tensors, step.ref, step.architecture, placement)
        for step in plan_path(recipe).steps
    ]


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("large", [1, 1500, 1 << 22])
def test_threads_and_sizes_of_batches_do_not_change_a_bit(
    quantization: str | None, large: int, recipe: lab.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    placement = Placement("cpu", torch.float32, "int8" if quantization else None)
    wanted = produce_weights(layers(recipe, placement), 1)
    monkeypatch.setattr(produce, "_LARGE", large)
    found = produce_weights(layers(recipe, placement), 3)
    assert list(found) == list(wanted)
    for key, weight in wanted.items():
        other = found[key]
        assert isinstance(weight, LayerWeights)
        assert isinstance(other, LayerWeights)
        for name in ("qkv", "out", "gate_up", "down"):
            mine, theirs = getattr(weight, name), getattr(other, name)
            assert torch.equal(mine.weight, theirs.weight)
            assert (mine.bias is None) == (theirs.bias is None)


def counted(names: int, living: set[int], peaks: list[int]) -> list[Blueprint]:
    """Blueprints of one part each, whose drafts count how many are alive."""
    lock = threading.Lock()

    def part(number: int) -> Part:
        def draft() -> Draft:
            buffer = torch.zeros(8, 8)
            with lock:
                living.add(number)
                peaks.append(len(living))
            weakref.finalize(buffer, living.discard, number)
            return Draft((), lambda _: DenseLinear(buffer.to(torch.bfloat16)))

        return Part("part", 64, draft)

    return [
        Blueprint(str(number), (part(number),), lambda _: torch.zeros(1)) for number in range(names)
    ]


@pytest.mark.parametrize(("large", "num_threads", "most"), [(64, 3, 1), (65, 1, 1), (65, 3, 3)])
def test_few_drafts_live_at_once(
    large: int, num_threads: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One at a time if large, else one batch (here of one part) per thread."""
    monkeypatch.setattr(produce, "_LARGE", large)
    living: set[int] = set()
    peaks: list[int] = []
    assert len(produce_weights(counted(20, living, peaks), num_threads)) == 20
    assert max(peaks) <= most
    assert not living


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_error_names_the_tensor_and_keeps_nothing(
    num_threads: int, recipe: lab.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(produce, "_LARGE", 1500)
    file = recipe.checkpoints["a"].folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.3.mlp.down_proj.weight"].view(-1)[5] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    source = lab.open_recipe({"a": file.parent})
    finished: list[weakref.ref[torch.Tensor | Linear | Table]] = []
    blueprints = [
        Blueprint(each.key, tuple(_watched(part, finished) for part in each.parts), each.assemble)
        for each in layers(source, Placement("cpu", torch.float32))
    ]
    with pytest.raises(SourceError, match=r"'model.layers.3.mlp.down_proj.weight'") as caught:
        produce_weights(blueprints, num_threads)
    gc.collect()
    assert finished
    assert caught.value.__traceback__ is not None
    assert [ref() for ref in finished if ref() is not None] == []


def _watched(part: Part, finished: list[weakref.ref[torch.Tensor | Linear | Table]]) -> Part:
    def draft() -> Draft:
        made = part.draft()

        def finish(num_threads: int) -> torch.Tensor | Linear | Table:
            value = made.finish(num_threads)
            finished.append(weakref.ref(value))
            return value

        return Draft(made.jobs, finish)

    return Part(part.name, part.num_elements, draft)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_the_estimate_is_what_is_built(quantization: str | None, recipe: lab.Recipe) -> None:
    chosen = "int8" if quantization else None
    backend = lab.torch_backend("cpu", torch.float32, chosen)
    model = lab.build_model(recipe, lab.WeightStore(), backend, num_threads=2)
    needs = estimate(recipe, Placement("cpu", torch.float32, chosen), num_threads=2)
    assert needs.weight_bytes == model.weight_bytes


@pytest.mark.parametrize("block_size", [1, 16, 24])
@pytest.mark.parametrize("enforce_eager", [False, True])
def test_the_predicted_kv_cache_is_that_of_the_model(
    block_size: int, enforce_eager: bool, recipe: lab.Recipe
) -> None:
    placement = choose_placement("cpu", torch.float32, None, enforce_eager=enforce_eager)
    assert placement.is_packed is not enforce_eager
    backend = choose_backend(placement, num_threads=1, enforce_eager=enforce_eager)
    model = lab.build(recipe, backend=backend)
    predicted = kv_bytes_per_block(plan_path(recipe), placement, block_size)
    assert predicted == model.kv_bytes_per_block(block_size)
