"""Merges without a search, as manifests: what every evolved recipe has to beat.

`models` are sources or merges of the pool; names of the results are the pool's.
"""

from collections.abc import Sequence

from evoserve.manifest.methods import MethodName
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.schema import Manifest
from search.genome.pool import Pool

MERGE = "merged"


def one_source(pool: Pool, model: str) -> Manifest:
    """A model as it is."""
    return pool.manifest({}, [_span(model, 0, pool.layers_of(model))])


def uniform_average(pool: Pool, models: Sequence[str]) -> Manifest:
    """The mean of all weights."""
    return _merge(pool, "linear", None, models, 1.0)


def task_arithmetic(pool: Pool, base: str, models: Sequence[str], weight: float = 1.0) -> Manifest:
    """Base plus the weighted sum of task vectors (2212.04089)."""
    return _merge(pool, "task_arithmetic", base, models, weight)


def ties(
    pool: Pool, base: str, models: Sequence[str], weight: float = 1.0, density: float = 0.2
) -> Manifest:
    """Trim to the largest `density`, elect signs, disjoint mean (2306.01708, which keeps 20%)."""
    return _merge(pool, "ties", base, models, weight, density)


def dare_ties(
    pool: Pool, base: str, models: Sequence[str], weight: float = 1.0, density: float = 0.5
) -> Manifest:
    """Random drop and rescale (2311.03099), then sign election and sum, seed 0."""
    return _merge(pool, "dare_ties", base, models, weight, density)


def layer_swap(pool: Pool, language: str, expert: str, bottom: int, top: int) -> Manifest:
    """The expert with the `bottom` and `top` layers of the language model (2410.01335).

    Embedding, final norm and head are the language model's too. Raises ValueError for layer counts
    that differ, or that leave no layer to the expert.
    """
    count = pool.layers_of(expert)
    if pool.layers_of(language) != count:
        raise ValueError(
            f"layer swap: '{language}' has {pool.layers_of(language)} layers, "
            f"'{expert}' has {count}"
        )
    if bottom < 1 or top < 1 or bottom + top >= count:
        raise ValueError(
            f"layer swap: bottom {bottom} and top {top} must be at least 1 and leave some of the "
            f"{count} layers to '{expert}'"
        )
    path = [
        _span(language, 0, bottom),
        _span(expert, bottom, count - top),
        _span(language, count - top, count),
    ]
    return pool.manifest({}, path)


def frankenmerge(pool: Pool, first: str, second: str, share: float = 0.75) -> Manifest:
    """The first `share` of one model's layers, then the last `share` of another's (passthrough).

    0.75 makes 48 layers of 2 x 32, the usual 10B of two 7B models. The head is the second model's.
    """
    if not 0 < share <= 1:
        raise ValueError(f"frankenmerge: share {share} must be in (0, 1]")
    keep_first = max(1, round(share * pool.layers_of(first)))
    count = pool.layers_of(second)
    keep_second = max(1, round(share * count))
    return pool.manifest(
        {}, [_span(first, 0, keep_first), _span(second, count - keep_second, count)]
    )


def _merge(
    pool: Pool,
    method: MethodName,
    base: str | None,
    models: Sequence[str],
    weight: float,
    density: float | None = None,
) -> Manifest:
    pool.check_known(models)
    if MERGE in pool.models:
        raise ValueError(f"'{MERGE}' is taken by a model of the pool")
    spec = MergeSpec(
        method=method,
        base=base,
        models=tuple(models),
        weights=dict.fromkeys(models, weight),
        densities={} if density is None else dict.fromkeys(models, density),
    )
    return pool.manifest({MERGE: spec})


def _span(model: str, start: int, stop: int) -> str:
    return f"{model}[{start}:{stop}]"
