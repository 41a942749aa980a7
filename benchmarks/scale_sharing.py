"""What recipes hold together: bytes by recipe and in total, beside what they should come to."""

from collections.abc import Sequence

from benchmarks.scale_engine import make_settings
from benchmarks.scale_recipes import (
    BAND,
    NUM_LAYERS,
    build_band_merges,
    build_path,
    build_paths,
    build_siblings,
    build_union_path,
    open_recipe,
)
from benchmarks.scale_result import Sharing
from evoserve.engine.factory import PathModelFactory
from evoserve.manifest.schema import Manifest


def measure_sharing(form: str, count: int) -> list[Sharing]:
    """Built by the engine's own factory; count: of the recipes of each kind."""
    one, whole = (hold(form, [each]) for each in (build_path(NUM_LAYERS), build_union_path()))
    layer = (one[1] - hold(form, [build_path(1)])[1]) // (NUM_LAYERS - 1)
    band = layer * (BAND[1] - BAND[0])
    paths, siblings = hold(form, build_paths(count)), hold(form, build_siblings(count))
    merges, repeated = hold(form, build_band_merges(count)), hold(form, [build_path(90)])
    expected = one[1] + (count - 1) * band
    return [
        _row("one model, identity path", one, one[1], "itself"),
        _row("one path through all 60 layers of two sources", whole, whole[1], "itself"),
        _row(f"{count} paths over two sources", paths, whole[1], "the path through all 60 layers"),
        _row(f"{count} paths over the same 30 layers", siblings, siblings[0][0], "one of them"),
        _row(f"{count} merges, layers {BAND[0]} to {BAND[1] - 1} differ", merges, expected,
             f"one model and {count - 1} such bands"),
        _row("path of 90 steps over 30 layers", repeated, one[1], "the identity path"),
    ]  # fmt: skip


def hold(form: str, manifests: Sequence[Manifest]) -> tuple[list[int], int]:
    """Bytes of each recipe, and of all while they are loaded together."""
    factory = PathModelFactory(make_settings(form))
    models = [factory.build(open_recipe(manifest)) for manifest in manifests]
    found = [model.weight_bytes for model in models], factory.num_bytes
    for model in models:
        model.lease.release()
    return found


def _row(name: str, held: tuple[list[int], int], reference: int, compared: str) -> Sharing:
    by_recipe, total = held
    return {
        "name": name,
        "by_recipe": by_recipe,
        "total": total,
        "reference": reference,
        "compared": compared,
    }
