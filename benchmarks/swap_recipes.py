"""The recipes that are swapped: parameter-space merges and data-flow paths over SmolLM2."""

from collections.abc import Sequence
from pathlib import Path

from evoserve.manifest.canonical import model_id
from evoserve.manifest.load import build_manifest, save_manifest
from evoserve.manifest.schema import Manifest

BASE, FIRST, SECOND = "smollm2-135m-instruct", "smollm2-perturbed-a", "smollm2-perturbed-b"
PATHS = (("ps[0:12]", "ps[10:30]"), ("ps[0:20]", "ps[16:30]"))


def build_recipes() -> list[Manifest]:
    """Merge, path of 32 steps, another merge, path of 34 steps; neighbours share no merged tensor.

    All paths are over merges of their own, so that each swap builds every layer anew.
    """
    merges = [_merged("swap-ps-1", 1), _merged("swap-ps-2", 2)]
    paths = [_routed("swap-dfs-1", 3, PATHS[0]), _routed("swap-dfs-2", 4, PATHS[1])]
    return [merges[0], paths[0], merges[1], paths[1]]


def save_recipes(recipes: Sequence[Manifest], folder: Path) -> dict[str, Path]:
    """Write each to a file; by model id."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {model_id(each): folder / f"{each.name}.json" for each in recipes}
    for each in recipes:
        save_manifest(each, files[model_id(each)])
    return files


def plan_swaps(ids: Sequence[str], count: int) -> list[str]:
    """`count` targets, never the same twice in a row: merge to merge, then merge to path."""
    first, path, second, longer = ids
    order = [second, first, path, second, longer, first]
    return [order[number % len(order)] for number in range(count)]


def _merged(name: str, seed: int) -> Manifest:
    return build_manifest(_document(name, seed))


def _routed(name: str, seed: int, path: Sequence[str]) -> Manifest:
    return build_manifest({**_document(name, seed), "path": list(path)})


def _document(name: str, seed: int) -> dict[str, object]:
    models = {"base": BASE, "a": FIRST, "b": SECOND}
    merge = {
        "method": "dare_ties",
        "base": "base",
        "seed": seed,
        "weights": {"a": 0.3 + 0.1 * seed, "b": 0.7 - 0.1 * seed},
        "densities": {"a": 0.7, "b": 0.6},
    }
    return {
        "format": "evoserve/1",
        "name": name,
        "sources": {source: {"model": model} for source, model in models.items()},
        "merges": {"ps": merge},
    }
