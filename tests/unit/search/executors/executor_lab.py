"""A torch-free executor that ends its worker on order, and what tests of executors share."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evoserve.errors import EngineError, SourceError
from evoserve.manifest.canonical import digest
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from search.executors.crew import Crew
from search.executors.dispatch import CrewExecutor
from search.executors.protocol import DEFAULT_PLACE, Executor, Job, Results, task_key
from search.store import Evaluation
from search.tasks.item import Generation, Item, Task

SUMS = tuple(
    Item(f"{a}+{b}=", str(a + b), "exact_number") for a, b in ((2, 3), (10, 4), (7, 8), (5, 5))
)


def sums(count: int = 4, max_new_tokens: int = 12) -> Task:
    """A task of the first sums."""
    return Task("sums", "search", SUMS[:count], Generation(max_new_tokens))


@contextmanager
def crew_executor(crew: Crew, in_flight: int = 1) -> Iterator[CrewExecutor]:
    """Closed in the end, whatever happens."""
    executor = CrewExecutor(crew, in_flight=in_flight)
    try:
        yield executor
    finally:
        executor.close()


def assert_equal(found: Evaluation, expected: Evaluation) -> None:
    """The same, bit for bit, but for the time it took."""
    assert found.scores.tobytes() == expected.scores.tobytes()
    assert (found.digest, found.task) == (expected.digest, expected.task)
    assert (found.outputs, found.is_lasting) == (expected.outputs, expected.is_lasting)


def named(number: int) -> Manifest:
    """A manifest that nobody can build, for executors that build nothing."""
    spec = SourceSpec(model="none", digest=f"sha256:{number:064x}")
    return Manifest(format="evoserve/1", name="recipe", sources={"none": spec})


def answer(job: Job, place: str = DEFAULT_PLACE) -> Evaluation:
    """What a recipe of `named` scores on a task: it follows from the digests alone."""
    name = digest(job.manifest)
    scores = np.full(len(job.task.items), int(name[7:15], 16) / 2**32)
    return Evaluation(name, task_key(job.manifest, job.task, place), scores, name, 0.0)


@dataclass(frozen=True)
class LabPlan:
    """Builds a torch-free executor in a real worker.

    deadly: digests of candidates that kill the process, each as often as `lives` says, which is
    counted in `folder` across processes; failing: those that the engine dies of.
    """

    folder: Path
    deadly: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    lives: int = 1
    refusal: str | None = None
    start: str = "well"

    def build(self) -> Executor:
        """Also refuses, raises, dies, or runs elsewhere than the worker before, as `start` says."""
        if self.refusal is not None:
            raise SourceError(self.refusal)
        if self.start == "raise":
            raise RuntimeError("no engine here")
        if self.start == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        is_first = is_new(self.folder / "start")
        if self.start == "vanish" and not is_first:
            raise SourceError("the folder is gone")
        return _LabExecutor(self, "elsewhere" if self.start == "roam" and is_first else "here")


class _LabExecutor:
    def __init__(self, plan: LabPlan, place: str) -> None:
        self._plan = plan
        self._place = place

    @property
    def place(self) -> str:
        return self._place

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        for index, job in enumerate(jobs):
            name = digest(job.manifest)
            for names, end in ((self._plan.deadly, _die), (self._plan.failing, _fail)):
                if name in names and count(self._plan.folder / name[7:]) <= self._plan.lives:
                    end()
            yield index, answer(job, self._place)

    def close(self) -> None:
        """Nothing to free."""


def count(file: Path) -> int:
    """How often this was called for the file, in one process after the other."""
    with file.open("ab") as opened:
        opened.write(b"x")
        opened.flush()
        return os.fstat(opened.fileno()).st_size


def is_new(file: Path) -> bool:
    """Makes the file; False if somebody else has, in whatever process."""
    try:
        file.open("xb").close()
    except FileExistsError:
        return False
    return True


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fail() -> None:
    raise EngineError("the engine's thread died")
