"""Building: from files into buffers, by any number of threads, with or without numba."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from merge_lab import merge_with_torch
from model_lab import make_checkpoint
from safetensors.torch import load_file, save_file

from evoserve.manifest.load import build_manifest
from evoserve.manifest.methods import METHOD_NAMES, TRAITS
from evoserve.merge import build
from evoserve.merge.build import evaluate, evaluate_all
from evoserve.merge.expression import Merge, RecipeTensors
from evoserve.merge.mapped import MappedPages
from evoserve.sources.architecture import EMBED, tensor_shapes
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

NAMES = ("base", "ja", "math")
DTYPES = {"base": torch.bfloat16, "ja": torch.float32, "math": torch.float16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two fine-tunes, each stored in another dtype."""
    root = tmp_path_factory.mktemp("sources")
    found = {
        name: make_checkpoint(root / name, model_type="llama", num_hidden_layers=2, vocab_size=5000)
        for name in NAMES
    }
    for seed, name in enumerate(NAMES):
        file = found[name] / "model.safetensors"
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: (x + 0.1 * seed * torch.randn(x.shape, generator=generator)).to(DTYPES[name])
            for key, x in sorted(load_file(file).items())
        }
        save_file(tensors, file, metadata={"format": "pt"})
    return found


def make_recipe(folders: dict[str, Path], merges: dict[str, Any]) -> Recipe:
    manifest = build_manifest(
        {
            "format": "evoserve/1",
            "name": "r",
            "sources": {name: {"model": name} for name in NAMES},
            "merges": merges,
            "path": ["base[0]"],
        }
    )
    return Recipe(manifest, {name: open_checkpoint(path) for name, path in folders.items()})


def spec(method: str, **changes: Any) -> dict[str, Any]:
    traits = TRAITS[method]
    models = ["ja", "math"][: min(traits.models[1] or 2, 2)]
    found: dict[str, Any] = {"method": method, "models": models, "dtype": "bfloat16"}
    if traits.base == "required":
        found["base"] = "base"
    for field, value in {"weights": 0.7, "densities": 0.6, "gammas": 0.05, "epsilons": 0.2}.items():
        if field in traits.coefficients:
            found[field] = dict.fromkeys(models, value)
    found |= {field: 0.4 for field in ("t", "split") if field in traits.coefficients}
    return found | changes


def build_all(
    recipe: Recipe, model: str, num_threads: int, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    tensors, shapes = RecipeTensors(recipe), tensor_shapes(recipe.architecture(model))
    outs = {name: torch.full(shape, float("nan"), dtype=dtype) for name, shape in shapes.items()}
    evaluate_all(
        [(tensors.expression(model, name), out) for name, out in outs.items()], num_threads
    )
    return outs


def assert_same_bits(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor.view(torch.uint8), two[name].view(torch.uint8)), name


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_any_thread_count_and_torch_alone_give_the_same_bits(
    folders: dict[str, Path], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(folders, {"ps": spec(method)})
    alone = build_all(recipe, "ps", 1)
    # Small enough that these tensors count as large, are cut up and summed over several chunks.
    monkeypatch.setattr(build, "_LARGE", 1000)
    assert_same_bits(build_all(recipe, "ps", 3), alone)
    monkeypatch.setattr(build, "_fused", lambda: None)
    assert_same_bits(build_all(recipe, "ps", 2), alone)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_result_is_rounded_to_the_merge_dtype_and_then_to_outs(
    folders: dict[str, Path], method: str
) -> None:
    recipe = make_recipe(folders, {"ps": spec(method)})
    node = RecipeTensors(recipe).expression("ps", EMBED).node
    assert isinstance(node, Merge)
    names = (["base"] if TRAITS[method].base == "required" else []) + list(spec(method)["models"])
    inputs = [load_file(folders[name] / "model.safetensors")[EMBED].float() for name in names]
    exact = merge_with_torch(method, node.coefficients, inputs)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        out = torch.empty(exact.shape, dtype=dtype)
        evaluate(RecipeTensors(recipe).expression("ps", EMBED), out)
        assert torch.equal(out, exact.to(torch.bfloat16).to(dtype))


def test_leaf_is_copied_and_row_slices_of_a_fused_weight_are_filled(
    folders: dict[str, Path],
) -> None:
    recipe = make_recipe(folders, {"ps": spec("dare_ties")})
    tensors = RecipeTensors(recipe)
    names = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]
    shapes = tensor_shapes(recipe.architecture("ps"))
    sizes = [shapes[name][0] for name in names]
    fused = torch.full((sum(sizes) + 2, 32), 7.0)
    jobs = []
    at = 1
    for name, size in zip(names, sizes, strict=True):
        jobs.append((tensors.expression("ps", name), fused[at : at + size]))
        at += size
    evaluate_all(jobs, 2)
    apart = build_all(recipe, "ps", 1)
    assert torch.equal(fused[1:-1], torch.cat([apart[name] for name in names]))
    assert bool((fused[[0, -1]] == 7).all())
    out = torch.empty(shapes[EMBED])
    evaluate(tensors.expression("math", EMBED), out)
    assert torch.equal(out, load_file(folders["math"] / "model.safetensors")[EMBED].float())


def test_nested_merge_rounds_to_its_own_dtype_first(folders: dict[str, Path]) -> None:
    inner = spec("dare_ties")
    outer = {"method": "linear", "models": ["ja", "ps"], "weights": {"ja": 0.5, "ps": 0.5}}
    recipe = make_recipe(folders, {"ps": inner, "top": outer})
    merged = build_all(recipe, "top", 2)
    inputs = [build_all(recipe, model, 1) for model in ("ja", "ps")]
    for name, tensor in merged.items():
        expected = inputs[0][name] * 0.5 + inputs[1][name] * 0.5
        assert torch.equal(tensor, expected)


def test_sources_are_not_changed(folders: dict[str, Path]) -> None:
    recipe = make_recipe(folders, {"ps": spec("ties")})
    reader = recipe.checkpoints["math"].tensors
    before = {name: reader.read(name).clone() for name in reader.names()}
    build_all(recipe, "ps", 2)
    assert_same_bits({name: reader.read(name) for name in reader.names()}, before)


def test_pages_come_back_after_they_are_released(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, model_type="llama", vocab_size=4000)
    mapped = open_checkpoint(folder).tensors.read(EMBED)
    before = mapped.clone()
    private = torch.randn(1 << 16)
    kept = private.clone()
    MappedPages().release([mapped, private, torch.randn(3)])
    assert torch.equal(mapped, before)
    assert torch.equal(private, kept)


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [float("inf"), float("nan"), 1e30])
def test_what_is_not_finite_is_reported(
    tmp_path: Path, method: str, dtype: torch.dtype, bad: float
) -> None:
    """One source is bad, and 1e30 is too large for float16 alone."""
    folders = {}
    for seed, name in enumerate(NAMES):
        folders[name] = make_checkpoint(tmp_path / name, seed=seed, model_type="llama")
        file = folders[name] / "model.safetensors"
        tensors = load_file(file)
        if name == "ja":
            tensors[EMBED][3] = bad
        save_file(tensors, file, metadata={"format": "pt"})
    # Breadcrumbs drop what is largest, whatever it is.
    changes = {"gammas": {"ja": 0.0, "math": 0.0}} if "breadcrumbs" in method else {}
    recipe = make_recipe(folders, {"ps": spec(method, **changes)})
    tensors_of = RecipeTensors(recipe)
    names = ["model.norm.weight", EMBED, "model.layers.0.mlp.up_proj.weight"]
    shapes = tensor_shapes(recipe.architecture("ps"))
    for model in ("ps", "ja"):
        jobs = [
            (tensors_of.expression(model, n), torch.empty(shapes[n], dtype=dtype)) for n in names
        ]
        fits = bad == 1e30 and dtype != torch.float16
        assert evaluate_all(jobs, 2) == (True, fits, True)
        assert evaluate(*jobs[1]) is fits


ROWS = {
    "base": torch.tensor([0, 1, 2, -1, -1, 5]),
    "ja": torch.tensor([0, -1, 2, 3, -1, 5]),
    "math": torch.tensor([0, 1, 2, 9, -1, -1]),
}


def picked(folders: dict[str, Path], name: str) -> torch.Tensor:
    table = load_file(folders[name] / "model.safetensors")[EMBED]
    return table[ROWS[name].clamp(min=0)].float()


def test_missing_rows_come_from_the_base_or_from_those_that_have_them(
    folders: dict[str, Path],
) -> None:
    recipe = make_recipe(
        folders,
        {"ps": {"method": "task_arithmetic", "base": "base", "weights": {"ja": 0.5, "math": 0.25}}},
    )
    out = torch.empty(6, 32)
    evaluate(RecipeTensors(recipe, ROWS).expression("ps", EMBED), out)
    base, ja, math = (picked(folders, name) for name in NAMES)
    both = base + 0.5 * (ja - base) + 0.25 * (math - base)
    assert torch.allclose(out[[0, 2]], both[[0, 2]], atol=1e-6)
    assert torch.allclose(out[1], base[1] + 0.25 * (math - base)[1], atol=1e-6)
    stand_in = (ja[3] + math[3]) / 2
    expected = stand_in + 0.5 * (ja[3] - stand_in) + 0.25 * (math[3] - stand_in)
    assert torch.allclose(out[3], expected, atol=1e-6)
    assert torch.allclose(out[5], base[5] + 0.5 * (ja - base)[5], atol=1e-6)
    means = [
        load_file(folders[n] / "model.safetensors")[EMBED].double().mean(0).to(DTYPES[n]).float()
        for n in NAMES
    ]
    nobody = means[0] + 0.5 * (means[1] - means[0]) + 0.25 * (means[2] - means[0])
    assert torch.allclose(out[4], nobody, atol=1e-6)


def test_missing_rows_without_a_base_are_the_mean_of_the_others(folders: dict[str, Path]) -> None:
    recipe = make_recipe(folders, {"ps": {"method": "linear", "weights": {"ja": 0.0, "math": 1.0}}})
    out = torch.empty(6, 32)
    evaluate(RecipeTensors(recipe, ROWS).expression("ps", EMBED), out)
    ja, math = picked(folders, "ja"), picked(folders, "math")
    assert torch.equal(out[:4], math[:4])
    assert torch.equal(out[5], ja[5])


def test_identity_rows_change_nothing(folders: dict[str, Path]) -> None:
    recipe = make_recipe(folders, {"ps": spec("dare_ties")})
    rows = {name: torch.arange(5000) for name in NAMES}
    outs = [torch.empty(5000, 32) for _ in range(2)]
    evaluate(RecipeTensors(recipe, rows).expression("ps", EMBED), outs[0])
    evaluate(RecipeTensors(recipe).expression("ps", EMBED), outs[1])
    assert torch.equal(outs[0], outs[1])


SCRIPT = """
import torch
from evoserve.merge import jit
from evoserve.merge.combination import Linear
from evoserve.merge.fused import combine_into
out = torch.empty(5)
combine_into(Linear((0.5,)), [torch.ones(5)], torch.float32, out, lambda n, piece: piece(0, n))
print(out.tolist(), type(jit.combine_linear._cache).__name__)
"""


def test_a_place_without_a_writable_cache_still_merges(tmp_path: Path) -> None:
    """Neither the package's folder nor the user's can be written: compiled, not cached."""
    package = tmp_path / "evoserve"
    source = Path(build.__file__).parents[1]
    package.mkdir()
    for path in source.rglob("*.py"):
        copy = package / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (package / "merge" / "__pycache__").write_text("in the way")
    home = tmp_path / "home"
    home.write_text("not a folder")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "HOME": str(home)}
    environment |= {"XDG_CACHE_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("] ")[0] + "]" == "[0.5, 0.5, 0.5, 0.5, 0.5]"
    assert "NullCache" in done.stdout
