"""The seam every executor stands behind: jobs in, per-item scores out, as they are done."""

import hashlib
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from evoserve.manifest.schema import Manifest
from search.store import Evaluation
from search.tasks.item import Task

DEFAULT_PLACE = "cpu+torch.float32"
Results = Generator[tuple[int, Evaluation], None, None]


@dataclass(frozen=True)
class Job:
    """One recipe to score on one task."""

    manifest: Manifest
    task: Task


class Executor(Protocol):
    """Scores recipes; what it answers does not depend on where, in what order or beside what."""

    @property
    def place(self) -> str:
        """Device and dtype that candidates run in, such as `cpu+torch.float32`."""
        ...

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        """(index of the job, its evaluation) for each job once, in the order they get done.

        Closing the iterator early gives up what is left. Raises EngineError only: whatever is
        wrong with a candidate is a score of 0.
        """
        ...

    def close(self) -> None:
        """Free everything; the executor cannot be used afterwards."""
        ...


def evaluate_one(executor: Executor, manifest: Manifest, task: Task) -> Evaluation:
    """The evaluation of a single job. Raises EngineError."""
    with closing(executor.evaluate([Job(manifest, task)])) as results:
        return next(results)[1]


def task_key(manifest: Manifest, task: Task, place: str) -> str:
    """A task's name in the store: its digest; more where a place or a template matters too."""
    extra: list[str] = [] if place == DEFAULT_PLACE else place.split("+")
    if task.generation.chat and manifest.chat_template is not None:
        extra.append(hashlib.sha256(manifest.chat_template.encode()).hexdigest())
    return "+".join([task.digest, *extra])
