"""The seam between handing out work and the workers that do it, wherever those run."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from evoserve.errors import InputError
from search.executors.protocol import Executor, Job
from search.store import Evaluation

_LOGGED = ("evoserve", "search")


class Plan(Protocol):
    """Plain data that travels to a worker and is put to work there."""

    def build(self) -> Executor:
        """The executor of one worker. Raises InputError for what is wrong on its machine."""
        ...


@dataclass(frozen=True)
class Note:
    """A log record of a worker, to be logged again where the search runs."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True)
class Ready:
    """The worker has begun and waits for jobs; place: that of its executor; pid: of its process."""

    place: str
    pid: int


@dataclass(frozen=True)
class Refused:
    """The worker could not begin, and no other try would do better."""

    error: InputError


@dataclass(frozen=True, eq=False)
class Result:
    """One job is done; position: among the jobs handed over; is_last: the worker is free again."""

    position: int
    evaluation: Evaluation
    notes: tuple[Note, ...]
    is_last: bool


@dataclass(frozen=True)
class Lost:
    """The worker is gone or must go, with whatever it held; reason: for people."""

    reason: str
    notes: tuple[Note, ...] = ()


Message = Ready | Refused | Result | Lost


class Crew(Protocol):
    """A fixed number of workers, each with one handful of jobs at a time.

    Every worker says `Ready`, `Refused` or `Lost` when it begins, then per handful as many
    `Result`s as jobs, or `Lost`. After `Refused` and `Lost` nothing more comes until it is
    replaced.
    """

    @property
    def num_workers(self) -> int:
        """Workers are counted from 0."""
        ...

    def hand(self, worker: int, jobs: Sequence[Job]) -> None:
        """Give a free worker its next jobs; that it is gone is told by `wait`."""
        ...

    def wait(self) -> Sequence[tuple[int, Message]]:
        """(worker, message): at least one, each worker's in their order. Blocks."""
        ...

    def replace(self, worker: int) -> None:
        """End this worker if it still runs and let a new one begin; does not wait for it."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


class Workbench:
    """What runs inside a worker: one executor, from its plan to its last job."""

    def __init__(self, plan: Plan) -> None:
        """Nothing is built before `begin`."""
        self._plan = plan
        self._executor: Executor | None = None
        self._notes = _Notes()
        self._messages: Iterator[Message] = iter(())

    def begin(self) -> Message:
        """Build the executor: `Ready`, `Refused` or `Lost`."""
        for name in _LOGGED:
            logging.getLogger(name).addHandler(self._notes)
            logging.getLogger(name).propagate = False
        try:
            self._executor = self._plan.build()
        except InputError as error:
            return Refused(error)
        except Exception as error:  # whatever it is, the other side must hear of it
            return self._lost(error)
        return Ready(self._executor.place, os.getpid())

    def work(self, jobs: Sequence[Job]) -> None:
        """Take the next jobs; `advance` does them."""
        self._messages = self._work(jobs)

    def advance(self) -> Message:
        """The next `Result` of the jobs taken last, or `Lost`."""
        return next(self._messages)

    def _work(self, jobs: Sequence[Job]) -> Iterator[Message]:
        if self._executor is None:
            raise RuntimeError("the worker has not begun")
        left = len(jobs)
        try:
            with closing(self._executor.evaluate(jobs)) as results:
                for position, evaluation in results:
                    left -= 1
                    yield Result(position, evaluation, self._notes.take(), is_last=not left)
        except Exception as error:  # a candidate's fault or ours: strikes tell them apart
            yield self._lost(error)

    def _lost(self, error: Exception) -> Lost:
        return Lost(f"{type(error).__name__}: {error}", self._notes.take())


class _Notes(logging.Handler):
    """Keeps what was logged until somebody takes it along; any thread may log."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: deque[Note] = deque()

    def emit(self, record: logging.LogRecord) -> None:
        self._kept.append(Note(record.name, record.levelno, self.format(record)))

    def take(self) -> tuple[Note, ...]:
        return tuple(self._kept.popleft() for _ in range(len(self._kept)))
