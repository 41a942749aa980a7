"""How sure an accuracy is: Wilson's 95% interval, and its percentile twin for graded scores."""

import math
from collections.abc import Sequence

Z95 = 1.959963984540054


def interval95(scores: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of the mean of scores in [0, 1].

    Wilson's (1927) for right-or-wrong scores; for graded ones the same formula, which is then
    conservative, since no variable on [0, 1] with that mean varies more than a Bernoulli one.
    """
    count = len(scores)
    if not count:
        return 0.0, 1.0
    mean = math.fsum(scores) / count
    z2 = Z95 * Z95
    centre = (mean + z2 / (2 * count)) / (1 + z2 / count)
    spread = (
        Z95 * math.sqrt(mean * (1 - mean) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    )
    return max(0.0, min(mean, centre - spread)), min(1.0, max(mean, centre + spread))


def format_accuracy(scores: Sequence[float]) -> str:
    """Such as `52.0% [45.8, 58.1] n=250`."""
    if not scores:
        return "no items"
    low, high = interval95(scores)
    mean = math.fsum(scores) / len(scores)
    return f"{100 * mean:.1f}% [{100 * low:.1f}, {100 * high:.1f}] n={len(scores)}"
