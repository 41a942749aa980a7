"""The plain fitness, and the oracle of the cheaper ones: every item of every task."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np

from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor, Job
from search.fitness.protocol import Sample, Samples
from search.store import Evaluation, Individual
from search.tasks.item import Task


class FullFitness:
    """Asks everything."""

    def __init__(self, executor: Executor, tasks: Sequence[Task]) -> None:
        """tasks: the counted ones, in the objectives' order."""
        self._executor = executor
        self._tasks = tuple(tasks)

    def score(self, generation: int, manifests: Sequence[Manifest]) -> Samples:
        """All recipes on all tasks, handed to the executor at once."""
        del generation
        yield from ask_all(self._executor, manifests, self._tasks)

    def learn(self, individuals: Sequence[Individual]) -> None:
        """Nothing to learn."""


def ask_all(executor: Executor, manifests: Sequence[Manifest], tasks: Sequence[Task]) -> Samples:
    """(position, sample) of every recipe on the whole of every task, as recipes are complete."""
    jobs = [Job(manifest, task) for manifest in manifests for task in tasks]
    found: dict[int, dict[int, Evaluation]] = {}
    with closing(executor.evaluate(jobs)) as results:
        for index, evaluation in results:
            position, number = divmod(index, len(tasks))
            done = found.setdefault(position, {})
            done[number] = evaluation
            if len(done) == len(tasks):
                scores = [done[n].scores for n in range(len(tasks))]
                means = np.array([float(np.mean(each)) for each in scores])
                yield position, Sample(np.concatenate(scores), means)
