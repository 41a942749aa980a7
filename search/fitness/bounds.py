"""Upper confidence bounds of a finite set's mean, from a sample drawn without replacement."""

from math import log, sqrt

import numpy as np
from numpy.typing import NDArray


def upper_bound(scores: NDArray[np.float64], count: int, risk: float, *, is_binary: bool) -> float:
    """A bound that the mean of all `count` scores in [0, 1] exceeds with probability <= risk.

    scores: (num_seen,), a uniform sample without replacement; is_binary: scores are 0 or 1 only.
    """
    sure = sure_bound(scores, count)
    if len(scores) == count:
        return sure
    if is_binary:
        return min(sure, hypergeometric_bound(round(float(scores.sum())), len(scores), count, risk))
    return min(sure, hoeffding_serfling_bound(scores, count, risk))


def sure_bound(scores: NDArray[np.float64], count: int) -> float:
    """The mean if everything that is left scored 1; never wrong."""
    seen = len(scores)
    return float(np.mean(scores)) if seen == count else float(scores.sum() + count - seen) / count


def hoeffding_serfling_bound(scores: NDArray[np.float64], count: int, risk: float) -> float:
    """Bardenet and Maillard (2015), theorem 2.4 and corollary 2.5, for scores in [0, 1]."""
    seen = len(scores)
    left = 1 - seen / count
    rho = left + 1 / count if seen <= count / 2 else left * (1 + 1 / seen)
    return float(np.mean(scores)) + sqrt(rho * log(1 / risk) / (2 * seen))


def hypergeometric_bound(num_right: int, num_seen: int, count: int, risk: float) -> float:
    """The exact one: the largest share of ones under which so few are seen with P > risk."""
    low, high = num_right, count - (num_seen - num_right)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    while low < high:
        middle = (low + high + 1) // 2
        if _tail(log_factorials, middle, num_seen, num_right) > risk:
            low = middle
        else:
            high = middle - 1
    return low / count


def _tail(log_factorials: NDArray[np.float64], ones: int, seen: int, most: int) -> float:
    """P(at most `most` ones among `seen` of a set with `ones` ones)."""
    count = len(log_factorials) - 1
    k = np.arange(max(0, seen - (count - ones)), min(most, ones) + 1)

    def choose(n: int, r: NDArray[np.int64]) -> NDArray[np.float64]:
        chosen: NDArray[np.float64] = log_factorials[n] - log_factorials[r] - log_factorials[n - r]
        return chosen

    total = choose(count, np.array([seen]))[0]
    return float(np.exp(choose(ones, k) + choose(count - ones, seen - k) - total).sum())
