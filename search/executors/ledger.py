"""Which candidates wait, which are with a worker, and which have lost it how often."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from evoserve.errors import EngineError
from evoserve.manifest.canonical import digest
from search.executors.protocol import Job

MAX_STRIKES = 3


@dataclass(eq=False)
class Candidate:
    """The jobs of one manifest that are not done, by their indices; strikes: workers lost."""

    digest: str
    jobs: list[int]
    strikes: int = 0


class Ledger:
    """Every job is done once, or an error names the candidate that cannot be.

    A candidate that has lost a worker goes alone from then on, so that what it does is not held
    against others.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        """All jobs wait, those of one manifest together."""
        grouped: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            grouped.setdefault(digest(job.manifest), []).append(index)
        self._waiting = deque(Candidate(name, indices) for name, indices in grouped.items())
        self._num_left = len(jobs)

    @property
    def is_over(self) -> bool:
        """All jobs are done."""
        return self._num_left == 0

    @property
    def num_waiting(self) -> int:
        """Candidates that are with nobody."""
        return len(self._waiting)

    def take(self, count: int) -> list[Candidate]:
        """The next candidates, at most `count`; at least one where one waits."""
        taken: list[Candidate] = []
        while self._waiting and len(taken) < max(1, count):
            if taken and (taken[0].strikes or self._waiting[0].strikes):
                break
            taken.append(self._waiting.popleft())
        return taken

    def done(self, candidate: Candidate, job: int) -> None:
        """One job of a candidate that was taken is done."""
        candidate.jobs.remove(job)
        self._num_left -= 1

    def give_back(self, candidates: Sequence[Candidate], reason: str) -> None:
        """Their worker was lost; they are the next to be taken.

        Raises EngineError for one that has lost so many workers in a row.
        """
        for candidate in reversed(candidates):
            if not candidate.jobs:
                continue
            candidate.strikes += 1
            if candidate.strikes >= MAX_STRIKES:
                raise EngineError(
                    f"candidate {candidate.digest} ended its worker {candidate.strikes} times in a "
                    f"row, the last time: {reason}; if memory ran out, use fewer workers or a "
                    "smaller in_flight, then start again: the run goes on"
                )
            self._waiting.appendleft(candidate)
