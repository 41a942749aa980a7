"""Mini-batches, as in the paper's data-flow search: every generation is asked other items."""

from collections.abc import Sequence

import numpy as np

from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor
from search.fitness.asking import Indices, ask_items, sample_asked
from search.fitness.protocol import Samples
from search.store import Individual
from search.tasks.item import Task


class MinibatchFitness:
    """A seeded subset of each task, the same for all candidates of a generation.

    Means of different generations are of different items: compare them on a validation task.
    """

    def __init__(self, executor: Executor, tasks: Sequence[Task], size: int, seed: int) -> None:
        """size: items of each task; a smaller task is asked whole."""
        self._executor = executor
        self._tasks = tuple(tasks)
        self._size = size
        self._seed = seed

    def score(self, generation: int, manifests: Sequence[Manifest]) -> Samples:
        """The generation's items, to all of its recipes."""
        chosen = self.batch(generation)
        named = dict(enumerate(manifests))
        for position, row in ask_items(self._executor, self._tasks, named, chosen):
            yield position, sample_asked(self._tasks, row)

    def learn(self, individuals: Sequence[Individual]) -> None:
        """Nothing to learn."""

    def batch(self, generation: int) -> list[Indices]:
        """Ascending items of each task, drawn without replacement by (seed, generation)."""
        rng = np.random.default_rng([self._seed, generation])
        counts = [len(task.items) for task in self._tasks]
        return [np.sort(rng.permutation(count)[: self._size]) for count in counts]
