"""What all optimizers do alike with a generation: check it, read its fitness, sample a start."""

from collections.abc import Sequence
from math import erf, sqrt

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from search.genome.protocol import Flags, Space, Vector
from search.optimizers.protocol import Scored


def check_told(asked: Sequence[Vector], told: Sequence[Scored]) -> None:
    """Raises ValueError unless `told` scores exactly the genotypes asked, in order."""
    if len(told) != len(asked):
        raise ValueError(f"{len(told)} scores for the {len(asked)} genotypes asked")
    for index, (genotype, scored) in enumerate(zip(asked, told, strict=True)):
        if not np.array_equal(genotype, scored.genotype):
            raise ValueError(f"score {index} is of another genotype than the one asked")


def read_objectives(told: Sequence[Scored], failed: float | None = None) -> NDArray[np.float64]:
    """Objectives (num_told, num_objectives), higher is better, all finite.

    Whoever has a NaN or an infinity gets `failed` in every objective; without it, less than the
    worst of the others.
    Raises ValueError if the numbers of objectives differ.
    """
    if not told:
        raise ValueError("an empty generation has no fitness")
    rows = [np.atleast_1d(np.asarray(scored.objectives, dtype=np.float64)) for scored in told]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim != 1 or rows[0].size == 0:
        raise ValueError("every score of a generation needs the same number of objectives")
    values = np.stack(rows)
    is_bad = ~np.isfinite(values).all(axis=1)
    good = values[~is_bad]
    worst = good.min(axis=0) if len(good) else np.zeros(values.shape[1])
    values[is_bad] = worst - 1 - np.abs(worst) if failed is None else failed
    return values


def read_fitness(told: Sequence[Scored], method: str) -> Vector:
    """Fitness (num_told,) of a generation with one objective. Raises ValueError for more."""
    values = read_objectives(told)
    if values.shape[1] != 1:
        raise ValueError(
            f"{method} optimises one objective, got {values.shape[1]}; NSGA-II takes several"
        )
    return values[:, 0]


def on_probability(space: Space) -> Vector:
    """P(x > 0) of each dimension under the start's normal distribution (initial, sigma)."""
    scaled = space.initial / space.sigma
    return np.array([0.5 * (1 + erf(value / sqrt(2))) for value in scaled.tolist()])


def sample_start(space: Space, count: int, rng: Generator, spread: float = 1.0) -> Vector:
    """Genotypes (count, size): normal around the start, binary ones at their bounds.

    spread multiplies sigma of the real dimensions.
    """
    real = space.initial + spread * space.sigma * rng.standard_normal((count, space.size))
    return place(space, real, real > 0)


def place(space: Space, real: Vector, is_on: Flags) -> Vector:
    """`real` within the bounds, and binary dimensions at the bound that `is_on` names."""
    bits = np.where(is_on, space.upper, space.lower)
    placed: Vector = np.where(space.is_binary, bits, np.clip(real, space.lower, space.upper))
    return placed


def check_binary(space: Space) -> None:
    """Raises ValueError unless the bounds of every binary dimension allow on and off."""
    wrong = space.is_binary & ~((space.lower <= 0) & (space.upper > 0))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"binary dimension {index} has bounds [{space.lower[index]}, {space.upper[index]}]; "
            "it needs lower <= 0 < upper"
        )
