"""The seam every fitness stands behind: a generation's recipes in, scores out as they are known."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evoserve.manifest.schema import Manifest
from search.store import Individual

Samples = Generator[tuple[int, "Sample"], None, None]


@dataclass(frozen=True, eq=False)
class Sample:
    """What was seen of one candidate.

    items: per-item scores of all counted tasks in a row, float64 (num_items,), NaN where the
    candidate was not asked; means: float64 (num_tasks,), the score on the whole of each task as
    far as it can be told.
    """

    items: NDArray[np.float64]
    means: NDArray[np.float64]


class Fitness(Protocol):
    """Scores generations; a pure function of what it is given and what it has learned.

    So a resumed run, which learns the stored generations again, goes on bit for bit.
    """

    def score(self, generation: int, manifests: Sequence[Manifest]) -> Samples:
        """(position, sample) for each recipe of the generation once. Raises EngineError."""
        ...

    def learn(self, individuals: Sequence[Individual]) -> None:
        """A whole generation has been scored; called once for each, in order."""
        ...
