"""Whatever workers die of and in whatever order they answer: every job once, or an error."""

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing

import pytest
from executor_lab import answer, named, sums
from hypothesis import given
from hypothesis import strategies as st

from evoserve.errors import EngineError, SourceError
from evoserve.manifest.canonical import digest
from search.executors.crew import Lost, Message, Ready, Refused, Result
from search.executors.dispatch import CrewExecutor
from search.executors.ledger import MAX_STRIKES
from search.executors.protocol import Job

TASKS = (sums(1), sums(2))


class ScriptedCrew:
    """Workers in memory: who speaks next, and who dies instead, is drawn."""

    def __init__(self, num_workers: int, draw: st.DataObject, poison: str = "") -> None:
        self.num_workers = num_workers
        self.deaths = 0
        self.handfuls: list[list[str]] = []
        self._draw = draw
        self._poison = poison
        self._waiting: list[deque[Message]] = [self._start() for _ in range(num_workers)]

    def hand(self, worker: int, jobs: Sequence[Job]) -> None:
        assert not self._waiting[worker], "this worker is not free"
        names = list(dict.fromkeys(digest(job.manifest) for job in jobs))
        self.handfuls.append(names)
        order = self._draw.draw(st.permutations(range(len(jobs))))
        for number, position in enumerate(order):
            if digest(jobs[position].manifest) == self._poison:
                self._waiting[worker].append(Lost("poison"))
                return
            is_last = number == len(jobs) - 1
            self._waiting[worker].append(Result(position, answer(jobs[position]), (), is_last))

    def wait(self) -> list[tuple[int, Message]]:
        speaking = [number for number, messages in enumerate(self._waiting) if messages]
        assert speaking, "this would wait forever"
        chosen = self._draw.draw(st.lists(st.sampled_from(speaking), min_size=1, unique=True))
        said: list[tuple[int, Message]] = []
        for number in chosen:
            if self.deaths and self._draw.draw(st.booleans()):
                self.deaths -= 1
                self._waiting[number] = deque([Lost("killed")])
            said.append((number, self._waiting[number].popleft()))
        return said

    def replace(self, worker: int) -> None:
        self._waiting[worker] = self._start()

    def close(self) -> None:
        """There is nothing to end."""

    def _start(self) -> deque[Message]:
        return deque([Ready("here", 1)])


def draw_jobs(data: st.DataObject) -> list[Job]:
    numbers = data.draw(st.lists(st.integers(0, 6), max_size=10))
    return [Job(named(number), data.draw(st.sampled_from(TASKS))) for number in numbers]


def check_all(jobs: Sequence[Job], found: Sequence[tuple[int, object]]) -> None:
    assert sorted(index for index, _ in found) == list(range(len(jobs)))
    for index, evaluation in found:
        expected = answer(jobs[index])
        assert (evaluation.digest, evaluation.task) == (expected.digest, expected.task)  # type: ignore[attr-defined]


@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_every_job_is_done_once_however_workers_die(
    data: st.DataObject, num_workers: int, in_flight: int, deaths: int
) -> None:
    crew = ScriptedCrew(num_workers, data)
    executor = CrewExecutor(crew, in_flight=in_flight)
    crew.deaths = deaths  # fewer than the strikes that end it
    jobs = draw_jobs(data)
    check_all(jobs, list(executor.evaluate(jobs)))
    assert all(1 <= len(handful) <= in_flight for handful in crew.handfuls)


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 12))
def test_many_deaths_end_in_all_results_or_in_an_error(
    data: st.DataObject, num_workers: int, in_flight: int, deaths: int
) -> None:
    crew = ScriptedCrew(num_workers, data)
    executor = CrewExecutor(crew, in_flight=in_flight)
    crew.deaths = deaths
    jobs = draw_jobs(data)
    found: list[tuple[int, object]] = []
    try:
        for pair in executor.evaluate(jobs):
            found.append(pair)
    except EngineError as error:
        assert "3 times" in str(error)  # noqa: PT017
        assert max(Counter(index for index, _ in found).values(), default=1) == 1
        crew.deaths = 0
        found = list(executor.evaluate(jobs))  # and it can still be used
    check_all(jobs, found)


class RecordedCrew(ScriptedCrew):
    """Two workers that say what was written down, one batch after the other."""

    def __init__(self, batches: Sequence[list[tuple[int, Message]]]) -> None:
        self.num_workers = 2
        self._batches = deque(batches)

    def hand(self, worker: int, jobs: Sequence[Job]) -> None:
        """What comes of it is in the batches."""

    def wait(self) -> list[tuple[int, Message]]:
        return self._batches.popleft()

    def replace(self, worker: int) -> None:
        """The new one speaks in the batches."""


def test_false_starts_of_a_call_that_failed_are_not_held_against_the_next() -> None:
    job = Job(named(0), TASKS[0])
    ready, lost = Ready("here", 1), Lost("killed")
    crew = RecordedCrew(
        [
            [(0, ready), (1, ready)],
            *([(1, lost)] for _ in range(3)),  # the first one had begun, two had not
            *([(0, lost), (0, ready)] for _ in range(2)),
            [(0, lost), (1, lost)],  # the third strike; the other death stays in the inbox
            [(0, ready), (1, ready)],
            [(0, Result(0, answer(job), (), True))],
        ]
    )
    executor = CrewExecutor(crew)
    with pytest.raises(EngineError, match="3 times in a row"):
        list(executor.evaluate([job]))
    check_all([job], list(executor.evaluate([job])))


@given(st.data(), st.integers(1, 3), st.integers(1, 3))
def test_a_deadly_candidate_is_named_and_no_other_is_blamed(
    data: st.DataObject, num_workers: int, in_flight: int
) -> None:
    poison = digest(named(3))
    crew = ScriptedCrew(num_workers, data, poison)
    executor = CrewExecutor(crew, in_flight=in_flight)
    jobs = [Job(named(number), TASKS[0]) for number in range(7)]
    with pytest.raises(EngineError, match=poison):
        list(executor.evaluate(jobs))
    with_it = [handful for handful in crew.handfuls if poison in handful]
    assert len(with_it) == MAX_STRIKES
    assert all(handful == [poison] for handful in with_it[1:])


@given(st.data(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def test_what_is_given_up_does_not_come_back(
    data: st.DataObject, num_workers: int, in_flight: int, deaths: int
) -> None:
    crew = ScriptedCrew(num_workers, data)
    executor = CrewExecutor(crew, in_flight=in_flight)
    crew.deaths = deaths
    for _ in range(2):
        jobs = draw_jobs(data)
        with closing(executor.evaluate(jobs)) as results:
            for _ in zip(range(data.draw(st.integers(0, 3))), results, strict=False):
                pass
    crew.deaths = 0
    jobs = draw_jobs(data)
    check_all(jobs, list(executor.evaluate(jobs)))


class FixedCrew:
    """Says what it was told to, one message at a time."""

    def __init__(self, *messages: tuple[int, Message], num_workers: int = 1) -> None:
        self.num_workers = num_workers
        self.is_closed = False
        self.num_replaced = 0
        self._messages = deque(messages)

    def hand(self, worker: int, jobs: Sequence[Job]) -> None:
        """Nothing is computed."""

    def wait(self) -> list[tuple[int, Message]]:
        return [self._messages.popleft()]

    def replace(self, worker: int) -> None:
        self.num_replaced += 1

    def close(self) -> None:
        self.is_closed = True


READY = (0, Ready("here", 1))
LOST = (0, Lost("killed"))


def test_a_worker_that_refuses_raises_what_it_met() -> None:
    crew = FixedCrew((0, Refused(SourceError("source 'ja' is gone"))))
    with pytest.raises(SourceError, match="source 'ja' is gone"):
        CrewExecutor(crew)
    assert crew.is_closed


def test_a_worker_lost_before_it_began_ends_the_start() -> None:
    crew = FixedCrew(READY, (1, Lost("killed")), num_workers=2)
    with pytest.raises(EngineError, match="worker 1 was lost before it began: killed"):
        CrewExecutor(crew)
    assert crew.is_closed


def test_workers_in_different_places_are_refused() -> None:
    crew = FixedCrew(READY, (1, Ready("cuda+torch.float16", 1)), num_workers=2)
    with pytest.raises(EngineError, match=r"worker 1 runs on cuda\+torch.float16, others on here"):
        CrewExecutor(crew)
    assert crew.is_closed


def test_a_worker_that_cannot_be_replaced_ends_the_run() -> None:
    job = Job(named(1), TASKS[0])
    for messages, why in (
        ([LOST, (0, Refused(SourceError("disk gone")))], "a new one cannot begin: disk gone"),
        ([LOST, LOST, LOST, LOST], "lost 3 times before it began"),
        ([LOST, (0, Ready("there", 1))], "worker 0 runs on there"),
    ):
        executor = CrewExecutor(FixedCrew(READY, *messages))
        with pytest.raises(EngineError, match=why):
            list(executor.evaluate([job]))


def test_two_readers_at_once_are_refused() -> None:
    job = Job(named(1), TASKS[0])
    other = Job(named(2), TASKS[0])
    done = (0, Result(0, answer(job), (), is_last=True))
    executor = CrewExecutor(FixedCrew(READY, done))
    with closing(executor.evaluate([job, other])) as results:
        next(results)
        with pytest.raises(EngineError, match="still being read"):
            list(executor.evaluate([job]))
