"""The seam every optimizer stands behind: ask for genotypes, tell their fitness."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from search.genome.protocol import Vector


@dataclass(frozen=True)
class Scored:
    """A genotype with what it earned; higher is better in every objective.

    objectives: float64 (num_objectives,), NaN and infinities count as the worst of all;
    items: float64 (num_items,) per-item scores or None.
    """

    genotype: Vector
    objectives: NDArray[np.float64]
    items: NDArray[np.float64] | None = None


class Optimizer(Protocol):
    """Ask/tell; equal state, equal answers: a restored optimizer goes on bit for bit."""

    def ask(self) -> Sequence[Vector]:
        """The next generation's genotypes; asking twice without telling gives the same ones."""
        ...

    def tell(self, generation: Sequence[Scored]) -> None:
        """The scores of exactly the genotypes asked, in the same order. Raises ValueError."""
        ...

    def state(self) -> bytes:
        """Everything a restart needs, random generator included."""
        ...

    def restore(self, state: bytes) -> None:
        """Continue from `state()`. Raises ValueError for bytes of another optimizer or version."""
        ...

    def is_done(self) -> bool:
        """Has the optimizer converged (or run out of its own budget)?"""
        ...

    def mean(self) -> Vector | None:
        """The current centre of the search, where the method has one."""
        ...
