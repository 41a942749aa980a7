"""An executor that asks the store first, and keeps in it what was computed."""

from collections.abc import Sequence
from contextlib import closing

from evoserve.manifest.canonical import digest
from search.executors.protocol import Executor, Job, Results, task_key
from search.store import Store


class RememberingExecutor:
    """Every recipe is computed once per task, however many runs of the store ask for it."""

    def __init__(self, store: Store, executor: Executor) -> None:
        """executor: computes what the store does not know; it is not closed from here."""
        self._store = store
        self._executor = executor

    @property
    def place(self) -> str:
        """That of the executor behind it."""
        return self._executor.place

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        """What is known first, then the rest as it gets done; equal jobs are computed once."""
        missing: dict[tuple[str, str], list[int]] = {}
        for index, job in enumerate(jobs):
            key = (digest(job.manifest), task_key(job.manifest, job.task, self.place))
            known = self._store.evaluation(*key)
            if known is None:
                missing.setdefault(key, []).append(index)
            else:
                yield index, known
        groups = list(missing.values())
        wanted = [jobs[indices[0]] for indices in groups]
        with closing(self._executor.evaluate(wanted)) as results:
            for number, evaluation in results:
                if evaluation.is_lasting:
                    self._store.save_evaluation(evaluation)
                for index in groups[number]:
                    yield index, evaluation

    def close(self) -> None:
        """Nothing: the store and the executor have owners of their own."""
