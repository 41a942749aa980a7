"""Baselines are valid manifests of the shape their papers describe."""

import pytest

from evoserve.manifest.load import dump_manifest, parse_manifest
from evoserve.manifest.parts import SourceSpec
from search.genome import baselines
from search.genome.pool import Pool

POOL = Pool(
    "baseline",
    {name: SourceSpec(model=f"mini/{name}") for name in ("base", "ja", "math", "deep")},
    {"base": 8, "ja": 8, "math": 8, "deep": 9},
)
PAIR = ("ja", "math")


def test_every_baseline_is_a_valid_manifest() -> None:
    made = [
        baselines.one_source(POOL, "ja"),
        baselines.uniform_average(POOL, PAIR),
        baselines.task_arithmetic(POOL, "base", PAIR),
        baselines.ties(POOL, "base", PAIR),
        baselines.dare_ties(POOL, "base", PAIR),
        baselines.layer_swap(POOL, "ja", "math", 2, 1),
        baselines.frankenmerge(POOL, "ja", "math"),
    ]
    for manifest in made:
        assert parse_manifest(dump_manifest(manifest)) == manifest
    methods = [m.method for manifest in made for m in manifest.merges.values()]
    assert methods == ["linear", "task_arithmetic", "ties", "dare_ties"]
    assert set(made[0].sources) == {"ja"}


def test_uniform_average_normalises() -> None:
    merge = baselines.uniform_average(POOL, PAIR).merges["merged"]
    assert merge.weights == {"ja": 1.0, "math": 1.0}
    assert merge.options.or_default("linear").normalize is True


def test_layer_swap_takes_the_ends_of_the_language_model() -> None:
    manifest = baselines.layer_swap(POOL, "ja", "math", 2, 1)
    assert manifest.path == ("ja[0:2]", "math[2:7]", "ja[7:8]")
    assert manifest.embed_model == manifest.head_model == manifest.tokenizer_model == "ja"


def test_frankenmerge_overlaps_the_middle() -> None:
    manifest = baselines.frankenmerge(POOL, "math", "ja")
    assert manifest.path == ("math[0:6]", "ja[2:8]")
    assert (manifest.embed_model, manifest.head_model) == ("math", "ja")


@pytest.mark.parametrize(("bottom", "top"), [(0, 1), (1, 0), (4, 4), (8, 1)])
def test_impossible_swaps_are_refused(bottom: int, top: int) -> None:
    with pytest.raises(ValueError, match="layer swap"):
        baselines.layer_swap(POOL, "ja", "math", bottom, top)


def test_wrong_models_are_refused() -> None:
    with pytest.raises(ValueError, match="has 9 layers"):
        baselines.layer_swap(POOL, "deep", "math", 1, 1)
    with pytest.raises(ValueError, match="unknown model 'x'"):
        baselines.uniform_average(POOL, ("ja", "x"))
    with pytest.raises(ValueError, match="share 0"):
        baselines.frankenmerge(POOL, "ja", "math", 0)
