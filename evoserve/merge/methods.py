"""The merge methods: one small pure function each, and the METHODS table that names them.

Each turns the coefficients of one tensor, and what it must know of the tensors, into a
`Combination`. Formulas, defaults and sources are tabulated in docs/merging.md.
"""

from collections.abc import Callable

import torch

from evoserve.merge.coefficients import Coefficients
from evoserve.merge.combination import (
    EVERYTHING,
    Coefficient,
    Combination,
    DeltaSum,
    Keep,
    KeepAll,
    KeepMagnitude,
    KeepRandom,
    KeepRanked,
    Linear,
    Split,
    Statistics,
    Term,
)
from evoserve.merge.geometry import (
    karcher_coefficients,
    model_stock_ratio,
    nuslerp_coefficients,
    slerp_coefficients,
)
from evoserve.merge.masks import density_threshold

_MIN_L1 = 1e-7
_MIN_WEIGHT_SUM = 1e-8
_MIN_NUSLERP_SUM = 1e-6

Method = Callable[[Coefficients, Statistics], Combination]
_Sparsifier = Callable[[Coefficients, Statistics, int], Keep]


def linear(c: Coefficients, _stats: Statistics) -> Linear:
    """sum w_k x_k, divided by sum w_k if `normalize` (2203.05482)."""
    total = sum(c.weights) if c.options.normalize else 1.0
    return Linear(tuple(weight / total for weight in c.weights))


def passthrough(c: Coefficients, _stats: Statistics) -> Linear:
    """The one input, times its weight."""
    return Linear(c.weights)


def task_arithmetic(c: Coefficients, stats: Statistics) -> DeltaSum:
    """base + lambda sum w_k d_k (2212.04089)."""
    return _plain_sum(c, stats, _keep_all)


def ties(c: Coefficients, stats: Statistics) -> DeltaSum:
    """Trim by magnitude, elect signs on the weighted sum, disjoint mean (2306.01708)."""
    return _elected_sum(c, stats, _keep_largest)


def dare_linear(c: Coefficients, stats: Statistics) -> DeltaSum:
    """Drop at random, rescale, add (2311.03099)."""
    return _plain_sum(c, stats, _keep_random)


def dare_ties(c: Coefficients, stats: Statistics) -> DeltaSum:
    """Drop at random, rescale, elect signs, sum (2311.03099, 2403.13187)."""
    return _elected_sum(c, stats, _keep_random)


def breadcrumbs(c: Coefficients, stats: Statistics) -> DeltaSum:
    """Drop the largest and the smallest magnitudes, add (2312.06795)."""
    return _plain_sum(c, stats, _keep_middle)


def breadcrumbs_ties(c: Coefficients, stats: Statistics) -> DeltaSum:
    """Breadcrumbs with sign election."""
    return _elected_sum(c, stats, _keep_middle)


def della(c: Coefficients, stats: Statistics) -> DeltaSum:
    """Drop at random with odds by magnitude, rescale, elect signs, mean (2406.11617)."""
    return _elected_sum(c, stats, _keep_ranked)


def della_linear(c: Coefficients, stats: Statistics) -> DeltaSum:
    """DELLA without sign election."""
    return _plain_sum(c, stats, _keep_ranked)


def slerp(c: Coefficients, stats: Statistics) -> Linear:
    """Along the great circle from base (t = 0) to model (t = 1)."""
    return _arc(stats.gram(rebased=False), c.t)


def split_slerp(c: Coefficients, stats: Statistics) -> Split:
    """slerp with t below the split point, with 1 - t from it on (2508.16204)."""
    gram = stats.gram(rebased=False)
    return Split(c.split_at, _arc(gram, c.t), _arc(gram, 1 - c.t))


def nuslerp(c: Coefficients, stats: Statistics) -> Linear | DeltaSum:
    """slerp of the two models, or of their task vectors, at t = w_2 / (w_1 + w_2)."""
    total = sum(c.weights)
    t = 0.5 if abs(total) < _MIN_NUSLERP_SUM else c.weights[1] / total
    axis = None if c.options.flatten else (0 if c.options.row_wise else -1)
    gram = stats.gram(rebased=c.has_base, axis=axis)[c.first :, c.first :]
    first, second = map(_coefficient, nuslerp_coefficients(gram, t))
    if not c.has_base:
        return Linear((first, second))
    return DeltaSum((Term(1, first), Term(2, second)))


def model_stock(c: Coefficients, stats: Statistics) -> DeltaSum:
    """base + t (average - base), t from the angles between task vectors (2403.19522)."""
    axis = -1 if c.options.filter_wise else None
    ratio = model_stock_ratio(stats.gram(rebased=True, axis=axis)[1:, 1:])
    count = len(c.weights)
    return DeltaSum(tuple(Term(k + 1, _coefficient(ratio / count)) for k in range(count)))


def karcher(c: Coefficients, stats: Statistics) -> Linear:
    """Weighted mean on the hypersphere (2603.04972)."""
    total = sum(c.weights)
    weights = tuple(weight / total for weight in c.weights)
    gram = stats.gram(rebased=False)
    return Linear(karcher_coefficients(gram, weights, c.options.max_iter, c.options.tol))


METHODS: dict[str, Method] = {
    "linear": linear,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "slerp": slerp,
    "nuslerp": nuslerp,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
    "della": della,
    "della_linear": della_linear,
    "model_stock": model_stock,
    "karcher": karcher,
    "passthrough": passthrough,
    "split_slerp": split_slerp,
}


def _plain_sum(c: Coefficients, stats: Statistics, sparsify: _Sparsifier) -> DeltaSum:
    """Weight, rescale factor, lambda and divisor meet in one coefficient."""
    total = sum(c.weights) if c.options.normalize else 1.0
    factor = c.options.lambda_ / (total if abs(total) >= _MIN_WEIGHT_SUM else 1.0)
    return DeltaSum(tuple(_term(c, stats, sparsify, k, factor) for k in range(len(c.weights))))


def _elected_sum(c: Coefficients, stats: Statistics, sparsify: _Sparsifier) -> DeltaSum:
    terms = tuple(_term(c, stats, sparsify, k, 1.0) for k in range(len(c.weights)))
    return DeltaSum(terms, elect=True, normalize=c.options.normalize, scale=c.options.lambda_)


def _term(
    c: Coefficients, stats: Statistics, sparsify: _Sparsifier, model: int, factor: float
) -> Term:
    keep = sparsify(c, stats, model)
    index = model + c.first
    weight = c.weights[model]
    return Term(index, weight * factor * _rescale(c, stats, index, keep), keep, weight)


def _rescale(c: Coefficients, stats: Statistics, index: int, keep: Keep) -> float:
    """What makes up for what a random mask dropped; KeepRanked divides by itself if asked."""
    if not isinstance(keep, KeepRandom | KeepRanked) or c.options.rescale == "none":
        return 1.0
    if c.options.rescale == "l1":
        before, after = stats.l1(index, keep)
        return before / after if min(before, after) >= _MIN_L1 else 1.0
    return 1.0 / c.densities[index - c.first] if isinstance(keep, KeepRandom) else 1.0


def _keep_all(_c: Coefficients, _stats: Statistics, _model: int) -> Keep:
    return KeepAll()


def _keep_random(c: Coefficients, _stats: Statistics, model: int) -> Keep:
    if c.densities[model] >= 1:
        return KeepAll()
    return KeepRandom(c.mask_keys[model], density_threshold(c.densities[model]))


def _keep_largest(c: Coefficients, stats: Statistics, model: int) -> Keep:
    if c.densities[model] >= 1:
        return KeepAll()
    count = max(1, int(c.densities[model] * stats.num_elements))
    return KeepMagnitude(stats.cutoffs(model + c.first, [count])[0])


def _keep_middle(c: Coefficients, stats: Statistics, model: int) -> Keep:
    """int(density n) elements below the int(gamma n) largest, or below fewer if n is too small."""
    if c.densities[model] >= 1:
        return KeepAll()
    num = stats.num_elements
    count = int(c.densities[model] * num)
    num_top = min(int(c.gammas[model] * num), num - count)
    top, bottom = stats.cutoffs(model + c.first, [num_top, num_top + count])
    return KeepMagnitude(bottom if num_top + count < num else EVERYTHING, top)


def _keep_ranked(c: Coefficients, _stats: Statistics, model: int) -> Keep:
    density, epsilon = c.densities[model], c.epsilons[model]
    if density >= 1:
        return KeepAll()
    inverse = c.options.rescale == "density"
    return KeepRanked(c.mask_keys[model], density - epsilon, density + epsilon, inverse)


def _arc(gram: torch.Tensor, t: float) -> Linear:
    return Linear(tuple(_coefficient(c) for c in slerp_coefficients(gram, t)))


def _coefficient(value: torch.Tensor) -> Coefficient:
    return float(value) if value.ndim == 0 else value.to(torch.float32)
