"""The dimensions of a search space: bounds, start, step and name of each."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search.genome.protocol import Flags, Vector


@dataclass(frozen=True)
class Range:
    """Bounds, start and initial step of one coefficient.

    `initial` defaults to the middle, `sigma` to a sixth of the width: on [0, 1] that is the
    paper's mean 0.5 and sigma0 1/6.
    """

    lower: float = 0.0
    upper: float = 1.0
    initial: float | None = None
    sigma: float | None = None

    def __post_init__(self) -> None:
        if not -np.inf < self.lower < self.upper < np.inf:
            raise ValueError(
                f"range [{self.lower}, {self.upper}]: needs finite bounds, lower below upper"
            )
        if not self.lower <= self.start <= self.upper:
            raise ValueError(f"initial {self.start} lies outside [{self.lower}, {self.upper}]")
        if not 0 < self.step < np.inf:
            raise ValueError(f"sigma {self.step} must be positive")

    @property
    def start(self) -> float:
        """`initial`, or the middle of the range."""
        return (self.lower + self.upper) / 2 if self.initial is None else self.initial

    @property
    def step(self) -> float:
        """`sigma`, or a sixth of the width."""
        return (self.upper - self.lower) / 6 if self.sigma is None else self.sigma


@dataclass(frozen=True)
class Axes:
    """A box of float64 vectors (size,); as it stands, a `Space` in which all counts always."""

    lower: Vector
    upper: Vector
    initial: Vector
    sigma: Vector
    is_binary: Flags
    names: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return len(self.names)

    def is_active(self, genotype: Vector) -> Flags:
        """All dimensions count everywhere."""
        return np.ones(len(self.clip(genotype)), dtype=bool)

    def clip(self, genotype: Vector) -> Vector:
        """A copy within the bounds. Raises ValueError for a wrong length or NaN."""
        vector = np.asarray(genotype, dtype=np.float64)
        if vector.shape != (self.size,):
            raise ValueError(f"genotype has shape {vector.shape}, the genome ({self.size},)")
        if np.isnan(vector).any():
            where = self.names[int(np.flatnonzero(np.isnan(vector))[0])]
            raise ValueError(f"genotype is NaN at '{where}'")
        # + 0.0 turns -0.0, which JSON does not know, into 0.0.
        clipped: Vector = np.clip(vector, self.lower, self.upper) + 0.0
        return clipped


def build_axes(names: Sequence[str], ranges: Sequence[Range], *, is_binary: bool = False) -> Axes:
    """One axis per name, `ranges` in the same order."""
    return Axes(
        lower=np.array([r.lower for r in ranges], dtype=np.float64),
        upper=np.array([r.upper for r in ranges], dtype=np.float64),
        initial=np.array([r.start for r in ranges], dtype=np.float64),
        sigma=np.array([r.step for r in ranges], dtype=np.float64),
        is_binary=np.full(len(names), is_binary),
        names=tuple(names),
    )


def concat_axes(parts: Sequence[Axes]) -> Axes:
    """The axes of all parts, in order."""
    return Axes(
        lower=np.concatenate([p.lower for p in parts]),
        upper=np.concatenate([p.upper for p in parts]),
        initial=np.concatenate([p.initial for p in parts]),
        sigma=np.concatenate([p.sigma for p in parts]),
        is_binary=np.concatenate([p.is_binary for p in parts]),
        names=tuple(name for p in parts for name in p.names),
    )
