"""Racing: a candidate that cannot reach the incumbent any more is not asked to the end.

Items come in chunks, in an order drawn for the generation, to all candidates that are left. After
each chunk a candidate is dropped whose upper bound lies below the incumbent's mean: the best
individual of earlier generations that was asked everything, so no drop depends on who is done
first. Bounds hold over all looks and tasks together (union bound): exact ones for right-or-wrong
scores, Hoeffding-Serfling for graded ones, and the sure one for both.

A dropped candidate keeps its mean so far, which is below the incumbent's. CMA-ES learns from the
ranking of the better half of a generation, which early in a search may lie below the incumbent as a
whole; so the best `keep` share of the generation, by the means so far, is never dropped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor
from search.fitness.asking import Indices, Row, ask_items, is_whole, sample_asked, split_row
from search.fitness.bounds import upper_bound
from search.fitness.protocol import Samples
from search.store import Individual
from search.tasks.item import Task

_GRADED = ("rouge_l", "lm_eval")


@dataclass(frozen=True)
class RacingSettings:
    """See `search.fitness.config.RacingConfig`."""

    chunk: int = 50
    confidence: float = 0.95
    keep: float = 0.5


class RacingFitness:
    """Asks the hopeful to the end; for one objective, the weighted mean of the tasks."""

    def __init__(
        self,
        executor: Executor,
        tasks: Sequence[Task],
        weights: Sequence[float],
        seed: int,
        settings: RacingSettings,
    ) -> None:
        """weights: of the tasks in the objective, in any unit."""
        self._executor = executor
        self._tasks = tuple(tasks)
        self._weights: NDArray[np.float64] = np.array(weights, dtype=np.float64)
        self._weights = self._weights / self._weights.sum()
        self._seed = seed
        self._settings = settings
        self._incumbent: float | None = None

    def score(self, generation: int, manifests: Sequence[Manifest]) -> Samples:
        """Chunk by chunk; the dropped are reported after the chunk that dropped them."""
        chunks = self._chunks(generation)
        alive = dict(enumerate(manifests))
        rows: dict[int, Row] = {}
        bounds = np.full(len(manifests), np.inf)
        for number, chunk in enumerate(chunks):
            is_last = number == len(chunks) - 1
            for position, row in ask_items(self._executor, self._tasks, alive, chunk):
                seen = rows.get(position, row)
                rows[position] = np.where(np.isnan(row), seen, row)
                if is_last:
                    yield position, sample_asked(self._tasks, rows[position])
            for position in [] if is_last else sorted(alive):
                upper = self._upper(rows[position], len(chunks) - 1)
                bounds[position] = min(bounds[position], upper)
            for position in [] if is_last else self._hopeless(rows, alive, bounds):
                del alive[position]
                yield position, sample_asked(self._tasks, rows[position])

    def learn(self, individuals: Sequence[Individual]) -> None:
        """Raise the incumbent to the best that was asked everything."""
        for one in individuals:
            if is_whole(one.items):
                mean = self._mean(one.items)
                self._incumbent = mean if self._incumbent is None else max(self._incumbent, mean)

    def _chunks(self, generation: int) -> list[list[Indices]]:
        """Chunks of ascending items of each task; one chunk if nobody can be dropped."""
        counts = [len(task.items) for task in self._tasks]
        looks = ceil(sum(counts) / self._settings.chunk)
        if self._incumbent is None or self._settings.keep >= 1:
            looks = 1
        rng = np.random.default_rng([self._seed, generation])
        orders = [rng.permutation(count) for count in counts]
        # Rounded up, so that the first chunk asks something of every task.
        ends = [[ceil(count * look / looks) for look in range(looks + 1)] for count in counts]
        return [
            [
                np.sort(order[end[look] : end[look + 1]])
                for order, end in zip(orders, ends, strict=True)
            ]
            for look in range(looks)
        ]

    def _upper(self, row: Row, looks: int) -> float:
        risk = (1 - self._settings.confidence) / (looks * len(self._tasks))
        uppers = [
            upper_bound(
                part[~np.isnan(part)],
                len(part),
                risk,
                is_binary=all(item.metric not in _GRADED for item in task.items),
            )
            for task, part in zip(self._tasks, split_row(self._tasks, row), strict=True)
        ]
        return float(self._weights @ np.array(uppers))

    def _hopeless(
        self, rows: dict[int, Row], alive: dict[int, Manifest], bounds: NDArray[np.float64]
    ) -> list[int]:
        """Whom to drop: below the incumbent, and not among the best of the generation."""
        if self._incumbent is None:
            return []
        ranked = sorted(alive, key=lambda position: (-self._mean(rows[position]), position))
        kept = ceil(self._settings.keep * len(bounds))
        # A bound and the incumbent may be the same number in another rounding.
        limit = self._incumbent - 1e-9
        return [position for position in sorted(ranked[kept:]) if bounds[position] < limit]

    def _mean(self, row: Row) -> float:
        return float(self._weights @ sample_asked(self._tasks, row).means)
