"""The executor over a crew: candidates to whoever is free, and lost workers replaced."""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from evoserve.errors import EngineError
from search.executors.crew import Crew, Lost, Message, Note, Ready, Refused, Result
from search.executors.ledger import MAX_STRIKES, Candidate, Ledger
from search.executors.protocol import Job, Results
from search.store import Evaluation

_LOG = logging.getLogger(__name__)


@dataclass(eq=False)
class _Handful:
    """What a worker holds. jobs: (candidate, index) by position; given_up: nobody waits for it."""

    candidates: list[Candidate]
    jobs: list[tuple[Candidate, int]]
    given_up: bool = False


@dataclass(eq=False)
class _Worker:
    """is_ready: it has begun; false_starts: how often in a row it was lost before that, in this
    call of `evaluate`."""

    is_ready: bool = False
    false_starts: int = 0
    held: _Handful | None = None


@dataclass(eq=False)
class _Turn:
    """One call of `evaluate`, and what is known of it and not told yet."""

    jobs: Sequence[Job]
    ledger: Ledger
    found: list[tuple[int, Evaluation]] = field(default_factory=list)


class CrewExecutor:
    """Candidates are evaluated side by side; a lost worker's are evaluated again elsewhere.

    What is given up is still finished by the workers that hold it, and thrown away.
    """

    def __init__(self, crew: Crew, *, in_flight: int = 1) -> None:
        """Waits until all workers have begun; the crew is closed with the executor.

        in_flight: candidates a worker may hold at once. Raises what a worker met when it began,
        and EngineError for one that was lost or that runs in another place than the others.
        """
        self._crew = crew
        self._in_flight = in_flight
        self._workers = [_Worker() for _ in range(crew.num_workers)]
        self._place = ""
        self._turn: _Turn | None = None
        # What workers said and nobody has taken in yet; an error may leave something here.
        self._inbox: deque[tuple[int, Message]] = deque()
        try:
            while not all(worker.is_ready for worker in self._workers):
                self._inbox.extend(crew.wait())
                while self._inbox:
                    self._begin(*self._inbox.popleft())
        except BaseException:
            crew.close()
            raise

    @property
    def place(self) -> str:
        """Device and dtype that candidates run in, the same for every worker."""
        return self._place

    @property
    def crew(self) -> Crew:
        """The workers."""
        return self._crew

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        """As the protocol says; also raises EngineError for a candidate that ends every worker."""
        if self._turn is not None:
            raise EngineError("the results of the jobs before are still being read; close them")
        turn = self._turn = _Turn(jobs, Ledger(jobs))
        # An error may have left a death in the inbox; what it ended is over.
        for worker in self._workers:
            worker.false_starts = 0
        try:
            while not turn.ledger.is_over:
                self._hand_out(turn)
                if not self._inbox:
                    self._inbox.extend(self._crew.wait())
                while self._inbox:
                    self._take_in(*self._inbox.popleft(), turn)
                # Before the results are read, which may take its time.
                self._hand_out(turn)
                while turn.found:
                    yield turn.found.pop(0)
        finally:
            self._turn = None
            for worker in self._workers:
                if worker.held is not None:
                    worker.held.given_up = True

    def close(self) -> None:
        """End every worker."""
        self._crew.close()

    def _begin(self, number: int, message: Message) -> None:
        if isinstance(message, Refused):
            raise message.error
        if isinstance(message, Lost):
            raise EngineError(f"worker {number} was lost before it began: {message.reason}")
        self._take_in(number, message, None)

    def _hand_out(self, turn: _Turn) -> None:
        for number, worker in enumerate(self._workers):
            if not worker.is_ready or worker.held is not None or not turn.ledger.num_waiting:
                continue
            share = min(self._in_flight, turn.ledger.num_waiting // len(self._workers))
            taken = turn.ledger.take(share)
            jobs = [(candidate, index) for candidate in taken for index in candidate.jobs]
            worker.held = _Handful(taken, jobs)
            self._crew.hand(number, [turn.jobs[index] for _, index in jobs])

    def _take_in(self, number: int, message: Message, turn: _Turn | None) -> None:
        # Before an error, a worker that has said its last word is replaced: the next call of
        # `evaluate` would wait for it forever.
        worker = self._workers[number]
        match message:
            case Ready(place=place):
                self._check_place(number, place)
                worker.is_ready, worker.false_starts = True, 0
            case Result():
                self._keep(worker, message, turn)
            case Lost(reason, notes):
                _log_again(notes)
                self._replace(number, reason, turn)
            case Refused(error):
                self._crew.replace(number)
                raise EngineError(f"worker {number} was lost, a new one cannot begin: {error}")

    def _keep(self, worker: _Worker, result: Result, turn: _Turn | None) -> None:
        held = worker.held
        if held is None:
            raise EngineError("a worker answered what it was not asked")
        if turn is not None and not held.given_up:
            _log_again(result.notes)
            candidate, index = held.jobs[result.position]
            turn.ledger.done(candidate, index)
            turn.found.append((index, result.evaluation))
        if result.is_last:
            worker.held = None

    def _replace(self, number: int, reason: str, turn: _Turn | None) -> None:
        worker, held = self._workers[number], self._workers[number].held
        worker.false_starts += not worker.is_ready
        worker.is_ready, worker.held = False, None
        _LOG.warning("worker %d is replaced: %s", number, reason)
        self._crew.replace(number)
        if worker.false_starts >= MAX_STRIKES:
            raise EngineError(
                f"worker {number} was lost {worker.false_starts} times before it began, the last "
                f"time: {reason}"
            )
        if turn is not None and held is not None and not held.given_up:
            turn.ledger.give_back(held.candidates, reason)

    def _check_place(self, number: int, place: str) -> None:
        if not self._place:
            self._place = place
        elif place != self._place:
            self._crew.replace(number)
            raise EngineError(
                f"worker {number} runs on {place}, others on {self._place}: scores could differ; "
                "set engine.device and engine.dtype, and the same resources for every worker"
            )


def _log_again(notes: Sequence[Note]) -> None:
    for note in notes:
        logging.getLogger(note.logger).log(note.level, "%s", note.text)
