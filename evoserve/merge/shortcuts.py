"""Merges that need no arithmetic, and models that a merge would not read.

A merge that equals one of its inputs by the formula's own algebra *is* that input: it comes out
bit for bit, shares the input's key, and is held in memory once.
"""

from evoserve.merge.coefficients import Coefficients

_ELECTED = frozenset({"ties", "dare_ties", "breadcrumbs_ties", "della"})
_SUMS = _ELECTED | {"task_arithmetic", "dare_linear", "breadcrumbs", "della_linear"}
_WEIGHTED = _SUMS | {"linear", "karcher"}


def same_as_input(method: str, c: Coefficients, num_elements: int) -> int | None:
    """The input (base first) that the merge equals, or None if it takes arithmetic."""
    if method in _SUMS:
        return _sum_as_input(method, c)
    if method in ("slerp", "split_slerp", "nuslerp"):
        return _arc_as_input(method, c, num_elements)
    active = _active(c)
    if method == "karcher":
        return active[0] if len(active) == 1 else None
    if method == "linear":
        total = sum(c.weights) if c.options.normalize else 1.0
        return active[0] if len(active) == 1 and c.weights[active[0]] == total else None
    return 0 if method == "passthrough" and c.weights == (1.0,) else None


def used_models(method: str, c: Coefficients) -> tuple[int, ...]:
    """The models whose tensors have an influence, in order of summation; never empty."""
    every = tuple(range(len(c.weights)))
    return (_active(c) or every) if method in _WEIGHTED else every


def _sum_as_input(method: str, c: Coefficients) -> int | None:
    active = _active(c)
    if not active or c.options.lambda_ == 0:
        return 0
    if len(active) > 1 or c.densities[active[0]] < 1:
        return None
    mean = c.options.normalize and (method in _ELECTED or abs(c.weights[active[0]]) >= 1e-8)
    factor = c.options.lambda_ * (1.0 if mean else c.weights[active[0]])
    return active[0] + 1 if factor == 1.0 else None


def _arc_as_input(method: str, c: Coefficients, num_elements: int) -> int | None:
    t = c.t
    if method == "nuslerp":
        total = sum(c.weights)
        t = c.weights[1] / total if abs(total) >= 1e-6 else 0.5
    if method == "split_slerp" and c.split_at <= 0:
        t = 1 - t
    elif method == "split_slerp" and c.split_at < num_elements and t != 0.5:
        return None
    if t not in (0.0, 1.0):
        return None
    return int(t) + (c.first if method == "nuslerp" else 0)


def _active(c: Coefficients) -> tuple[int, ...]:
    return tuple(k for k, weight in enumerate(c.weights) if weight != 0)
