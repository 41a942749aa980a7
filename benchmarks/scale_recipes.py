"""The recipes of the scaling benchmark: paths of any length, paths over two sources, merges that
differ in a band of layers."""

from collections.abc import Sequence

from benchmarks.provenance import ROOT
from evoserve.manifest.load import build_manifest
from evoserve.manifest.schema import Manifest
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

FOLDERS = {
    "base": ROOT / "models" / "demo" / "smollm2-135m-instruct",
    "a": ROOT / "models" / "demo" / "smollm2-perturbed-a",
    "b": ROOT / "models" / "demo" / "smollm2-perturbed-b",
}
NUM_LAYERS = 30
BAND = (12, 15)
"""The layers in which the recipes of `build_band_merges` differ."""


def open_recipe(manifest: Manifest) -> Recipe:
    """With its sources opened, digests not verified."""
    return Recipe(manifest, {name: open_checkpoint(FOLDERS[name]) for name in manifest.sources})


def build_path(num_steps: int) -> Manifest:
    """A path of any length over one source: all layers as often as fits, then the last ones."""
    if num_steps < 1:
        raise ValueError(f"num_steps {num_steps} must be 1 or more")
    whole, rest = divmod(num_steps, NUM_LAYERS)
    parts = [f"base[0:{NUM_LAYERS}]"] * whole
    if rest:
        parts.append(f"base[{NUM_LAYERS - rest}:{NUM_LAYERS}]")
    return _manifest(f"path-{num_steps}", ("base",), {"path": parts})


def build_union_path() -> Manifest:
    """One path that visits every layer of both sources."""
    return _routed("union", [f"a[0:{NUM_LAYERS}]", f"b[0:{NUM_LAYERS}]"])


def build_paths(count: int) -> list[Manifest]:
    """Different paths over two sources, each through 31 to 35 of their 60 layers or repeats.

    Recipe i goes from `a` to `b` at layer 3 + i and steps back a few layers.
    """
    recipes = []
    for number in range(count):
        split, back = 3 + number, 1 + number % 5
        parts = [f"a[0:{split}]", f"b[{split - back}:{NUM_LAYERS}]"]
        recipes.append(_routed(f"dfs-{number}", parts))
    return recipes


def build_siblings(count: int) -> list[Manifest]:
    """Paths that a search over one set of layers makes: another part repeated, another scale."""
    half = NUM_LAYERS // 2
    recipes = []
    for number in range(count):
        again = 1 + number
        parts = [f"a[0:{half}]", f"a[{half - again}:{half}]", f"b[{half}:{NUM_LAYERS}]"]
        scaling = {"default": 1.0, "matrix": [[f"a[{half - 1}]", f"b[{half}]", 0.9 + number / 50]]}
        recipes.append(_routed(f"sibling-{number}", parts, {"scaling": scaling}))
    return recipes


def build_band_merges(count: int) -> list[Manifest]:
    """Linear merges of two sources that are equal but for the weights of the layers in BAND."""
    first, stop = BAND
    groups = ["embed", f"layers[0:{first}]", f"layers[{first}:{stop}]"]
    groups += [f"layers[{stop}:{NUM_LAYERS}]", "head"]
    recipes = []
    for number in range(count):
        share = 0.2 + 0.6 * number / count
        weights = {"a": [0.5, 0.5, share, 0.5, 0.5], "b": [0.5, 0.5, 1 - share, 0.5, 0.5]}
        merge = {"method": "linear", "groups": groups, "weights": weights}
        recipes.append(_manifest(f"ps-{number}", ("a", "b"), {"merges": {"ps": merge}}))
    return recipes


def _routed(name: str, path: Sequence[str], more: dict[str, object] | None = None) -> Manifest:
    ends = {"tokenizer": "a", "embed": "a", "head": "b"}
    return _manifest(name, ("a", "b"), {"path": list(path), **ends, **(more or {})})


def _manifest(name: str, sources: Sequence[str], fields: dict[str, object]) -> Manifest:
    named = {source: {"model": str(FOLDERS[source])} for source in sources}
    return build_manifest({"format": "evoserve/1", "name": name, "sources": named, **fields})
