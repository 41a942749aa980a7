"""Our merges against mergekit 0.1.5: tensor by tensor, and a whole checkpoint by every method.

float32 random data, because mergekit breaks ties of magnitude arbitrarily and computes in the
inputs' dtype. Random masks differ by design, so DARE and DELLA are compared on the same kept
entries: mergekit's own formula around our mask.
"""

import math
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from merge_lab import make_coefficients, merge_fused, merge_with_torch
from model_lab import make_checkpoint
from safetensors.torch import load_file, save_file

from evoserve.manifest.load import build_manifest
from evoserve.merge.build import evaluate_all
from evoserve.merge.expression import RecipeTensors
from evoserve.merge.masks import DENSITY_ONE, density_threshold, keep_mask, mask_key
from evoserve.sources.architecture import tensor_shapes
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

TOLERANCE = 1e-6
SHAPES = [(24, 40), (129,), (7, 3)]


@pytest.fixture(scope="session")
def mergekit() -> SimpleNamespace:
    """Imported once: it takes five seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mergekit import merge_methods, sparsify
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.merge_methods.generalized_task_arithmetic import get_mask
        from mergekit.options import MergeOptions
    return SimpleNamespace(
        merge_tensors=merge_methods.merge_tensors,
        sparsify=sparsify,
        get_mask=get_mask,
        run_merge=run_merge,
        MergeConfiguration=MergeConfiguration,
        MergeOptions=MergeOptions,
    )


def family(shape: tuple[int, ...], count: int, seed: int) -> list[torch.Tensor]:
    """A base and fine-tunes far enough from it that slerp is no lerp."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return [base] + [base + 0.3 * torch.randn(shape, generator=generator) for _ in range(count)]


W, D, G = [0.7, -0.2, 0.9], [0.5, 0.8, 0.33], [0.02, 0.1, 0.3]
# method, its weights here, ours (keyword arguments), mergekit's parameters
CASES: list[tuple[str, list[float], dict[str, Any], dict[str, Any]]] = [
    ("linear", W, {}, {"weight": W}),
    ("linear", W, {"normalize": False}, {"weight": W, "normalize": False}),
    ("passthrough", [1.0], {}, {}),
    ("passthrough", [0.6], {}, {"scale": 0.6}),
    ("task_arithmetic", W, {}, {"weight": W}),
    (
        "task_arithmetic",
        W,
        {"normalize": True, "lambda": 0.7},
        {"weight": W, "normalize": True, "lambda": 0.7},
    ),
    ("ties", W, {"densities": D}, {"weight": W, "density": D}),
    (
        "ties",
        W,
        {"densities": D, "normalize": False, "lambda": 1.3},
        {"weight": W, "density": D, "normalize": False, "lambda": 1.3},
    ),
    ("breadcrumbs", W, {"densities": D, "gammas": G}, {"weight": W, "density": D, "gamma": G}),
    (
        "breadcrumbs",
        W,
        {"densities": [0.95] * 3, "gammas": G},
        {"weight": W, "density": [0.95] * 3, "gamma": G},
    ),
    (
        "breadcrumbs_ties",
        W,
        {"densities": D, "gammas": G, "normalize": True},
        {"weight": W, "density": D, "gamma": G, "normalize": True},
    ),
    ("slerp", [1.0], {"t": 0.35}, {"t": 0.35}),
    ("nuslerp", [0.3, 0.5], {}, {"weight": [0.3, 0.5]}),
    ("nuslerp", [0.3, 0.5], {"has_base": True}, {"weight": [0.3, 0.5]}),
    ("nuslerp", [0.3, 0.5], {"flatten": False}, {"weight": [0.3, 0.5], "nuslerp_flatten": False}),
    (
        "nuslerp",
        [0.3, 0.5],
        {"flatten": False, "row_wise": True, "has_base": True},
        {"weight": [0.3, 0.5], "nuslerp_flatten": False, "nuslerp_row_wise": True},
    ),
    ("model_stock", [1.0] * 3, {}, {}),
    ("model_stock", [1.0] * 3, {"filter_wise": True}, {"filter_wise": True}),
    ("karcher", [1.0] * 3, {}, {}),
    ("karcher", [1.0] * 3, {"max_iter": 2, "tol": 1e-9}, {"max_iter": 2, "tol": 1e-9}),
    ("dare_ties", W, {}, {"weight": W}),
    ("dare_linear", W, {}, {"weight": W}),
    ("della", W, {}, {"weight": W}),
    ("della_linear", W, {}, {"weight": W}),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[2]}")
def test_deterministic_methods_equal_mergekit(
    mergekit: SimpleNamespace, case: tuple[Any, ...], shape: tuple[int, ...]
) -> None:
    method, weights, ours, theirs = case
    c = make_coefficients(method, weights, **ours)
    inputs = family(shape, len(weights), seed=1)
    inputs = inputs if c.has_base else inputs[1:]
    expected = mergekit.merge_tensors(
        inputs, method, parameters=theirs, base_index=0 if c.has_base else None
    )
    assert_close(merge_with_torch(method, c, inputs), expected)
    if not ours.get("filter_wise") and ours.get("flatten", True):
        assert_close(merge_fused(method, c, inputs), expected)


@pytest.mark.parametrize("rescale", ["l1", "none", "density"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("method", ["dare_ties", "dare_linear", "della", "della_linear"])
def test_random_methods_equal_mergekits_formula_on_our_mask(
    mergekit: SimpleNamespace, method: str, rescale: str, normalize: bool
) -> None:
    inputs = family((24, 40), 3, seed=2)
    densities, epsilons = [0.5, 0.8, 0.33], [0.1, 0.15, 0.3]
    c = make_coefficients(
        method, W, densities, epsilons=epsilons, rescale=rescale, normalize=normalize
    )
    deltas = []
    for k in range(3):
        delta = inputs[k + 1] - inputs[0]
        odds = torch.full_like(delta, densities[k], dtype=torch.float64)
        if method.startswith("della"):
            odds = della_odds(delta, densities[k], epsilons[k])
        mask = keep_mask(c.mask_keys[k], (odds * DENSITY_ONE).round().long(), 0, delta.shape)
        norm = mergekit.sparsify.RescaleNorm.l1 if rescale == "l1" else None
        kept = mergekit.sparsify.rescaled_masked_tensor(delta, mask.float(), norm)
        deltas.append(W[k] * (kept / odds.float() if rescale == "density" else kept))
    stacked, weights = torch.stack(deltas), torch.tensor(W).reshape(3, 1, 1)
    if method in ("dare_ties", "della"):
        agrees = mergekit.get_mask(stacked, method="sum")
        mixed, divisor = (stacked * agrees).sum(dim=0), (weights * agrees).sum(dim=0)
        divisor[divisor == 0] = 1
    else:
        mixed, divisor = stacked.sum(dim=0), weights.sum(dim=0)
    expected = inputs[0] + (mixed / divisor if normalize else mixed)
    assert_close(merge_with_torch(method, c, inputs), expected)
    if not method.startswith("della"):
        assert_close(merge_fused(method, c, inputs), expected)


def della_odds(delta: torch.Tensor, density: float, epsilon: float) -> torch.Tensor:
    """mergekit's MagPrune probabilities, in float64."""
    ranks = delta.abs().argsort(dim=1).argsort(dim=1).double()
    return density - epsilon + ranks / (delta.shape[1] - 1) * 2 * epsilon


def assert_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    scale = float(theirs.abs().max())
    assert float((ours - theirs).abs().max()) <= TOLERANCE * scale


SOURCES = ("base", "left", "right")
BOTH = {"left": 0.6, "right": 0.7}
HALF = {"left": 0.5, "right": 0.75}
# name: (our merge, mergekit's method, whole-recipe parameters, per-model parameters)
RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, float]]]] = {
    "linear": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "task_arithmetic": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "ties": ({"weights": BOTH, "densities": HALF}, {}, {"weight": BOTH, "density": HALF}),
    "dare_ties": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "dare_linear": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "della": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "della_linear": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "breadcrumbs": (
        {"weights": BOTH, "densities": HALF, "gammas": {"left": 0.05, "right": 0.1}},
        {},
        {"weight": BOTH, "density": HALF, "gamma": {"left": 0.05, "right": 0.1}},
    ),
    "breadcrumbs_ties": (
        {"weights": BOTH, "densities": HALF},
        {},
        {"weight": BOTH, "density": HALF},
    ),
    "slerp": ({"models": ["left"], "t": 0.4}, {"t": 0.4}, {}),
    "nuslerp": ({"weights": BOTH}, {}, {"weight": BOTH}),
    "model_stock": ({"models": ["left", "right"]}, {}, {}),
    "karcher": ({"models": ["left", "right"]}, {}, {}),
    "passthrough": ({"models": ["left"]}, {}, {}),
}
BASED = {name for name in RECIPES if name not in ("linear", "karcher", "passthrough", "nuslerp")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Llama and two fine-tunes of it, as transformers writes them."""
    root = tmp_path_factory.mktemp("zoo")
    found = {
        name: make_checkpoint(
            root / name, seed=0, model_type="llama", num_hidden_layers=2, tie_word_embeddings=True
        )
        for name in SOURCES
    }
    for seed, name in enumerate(SOURCES[1:], start=1):
        file = found[name] / "model.safetensors"
        generator = torch.Generator().manual_seed(seed)
        tensors = {
            key: x + 0.3 * x.std() * torch.randn(x.shape, generator=generator)
            for key, x in sorted(load_file(file).items())
        }
        save_file(tensors, file, metadata={"format": "pt"})
    return found


@pytest.mark.parametrize("method", RECIPES)
def test_whole_checkpoint_equals_mergekits(
    mergekit: SimpleNamespace, folders: dict[str, Path], tmp_path: Path, method: str
) -> None:
    theirs = run_mergekit(mergekit, folders, tmp_path / "out", method)
    spec = {"method": method, **RECIPES[method][0], **({"base": "base"} if method in BASED else {})}
    manifest = build_manifest(
        {
            "format": "evoserve/1",
            "name": method,
            "sources": {name: {"model": name} for name in SOURCES},
            "merges": {"ps": spec},
        }
    )
    recipe = Recipe(manifest, {name: open_checkpoint(path) for name, path in folders.items()})
    tensors = RecipeTensors(recipe)
    shapes = tensor_shapes(recipe.architecture("ps"))
    ours = {name: torch.empty(shape) for name, shape in shapes.items()}
    evaluate_all([(tensors.expression("ps", name), out) for name, out in ours.items()], 2)
    assert set(ours) == set(theirs) - {"lm_head.weight"}
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name])


def run_mergekit(
    mergekit: SimpleNamespace, folders: dict[str, Path], out: Path, method: str
) -> dict[str, torch.Tensor]:
    merge, shared, per_model = RECIPES[method]
    models = merge.get("models") or sorted(merge["weights"])
    document: dict[str, Any] = {
        "merge_method": method,
        "dtype": "float32",
        "models": [
            {
                "model": str(folders[name]),
                "parameters": {key: table[name] for key, table in per_model.items()},
            }
            for name in models
        ],
        "parameters": shared,
    }
    if method in BASED:
        document["base_model"] = str(folders["base"])
    if method == "slerp":
        document["models"].insert(0, {"model": str(folders["base"])})
    mergekit.run_merge(
        mergekit.MergeConfiguration.model_validate(document),
        str(out),
        options=mergekit.MergeOptions(copy_tokenizer=False),
    )
    files = sorted(out.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def test_density_one_needs_no_mask() -> None:
    assert density_threshold(1.0) == DENSITY_ONE
    assert bool(keep_mask(mask_key(0, "a", "t"), DENSITY_ONE, 0, torch.Size([4096])).all())
    assert math.isclose(density_threshold(0.3) / DENSITY_ONE, 0.3, rel_tol=1e-6)
