"""What every executor must hold: the scores of one process, wherever and however it computes."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from executor_lab import assert_equal, sums
from executor_zoo import ROOT, SETTINGS, Zoo, open_zoo

from evoserve.manifest.schema import Manifest
from search.evaluate import Evaluator
from search.executors.build import build_executor
from search.executors.config import ExecutorConfig
from search.executors.protocol import DEFAULT_PLACE, Executor, Job, evaluate_one
from search.executors.remember import RememberingExecutor
from search.genome.baselines import one_source
from search.store import Evaluation, Store
from search.tasks.item import Generation, Item, Task

CONFIGS = {
    "inprocess": ExecutorConfig(in_flight=3),
    "remembering": ExecutorConfig(),
    "processes": ExecutorConfig(kind="processes", workers=2),
    "ray": ExecutorConfig(kind="ray", workers=2),
}
CHOICES = Task(
    "choices",
    "search",
    (Item("2+3=", "0", "choice", choices=("5", "猫")), Item("1+1=", ".", "regex")),
    Generation(4),
)
TASKS = (sums(3), CHOICES)


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return open_zoo()


@pytest.fixture(scope="module")
def jobs(zoo: Zoo) -> list[Job]:
    """Two tasks each of five candidates, of which math[6] cannot be built."""
    paths = [["math[0:6]"], ["ja[0:7]"], ["math[0:7]"], ["ja[0:2]", "math[2:6]"], ["base[0:6]"]]
    manifests = [zoo.pool.manifest({}, path) for path in paths]
    return [Job(manifest, task) for manifest in manifests for task in TASKS]


@pytest.fixture(scope="module")
def expected(zoo: Zoo, jobs: Sequence[Job]) -> list[Evaluation]:
    """Of the jobs, one after the other in this process."""
    with Evaluator(zoo.sources, SETTINGS, in_flight=1) as evaluator:
        return [evaluate_one(evaluator, job.manifest, job.task) for job in jobs]


@pytest.fixture(scope="module", params=list(CONFIGS))
def executor(
    request: pytest.FixtureRequest, zoo: Zoo, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Executor]:
    built = build_executor(CONFIGS[request.param], zoo.sources, SETTINGS, ROOT)
    with closing(built):
        if request.param != "remembering":
            yield built
            return
        folder: Path = tmp_path_factory.mktemp("store")
        with closing(Store(folder / "runs.sqlite")) as store:
            yield RememberingExecutor(store, built)


class TestExecutor:
    """One suite for all."""

    def test_place_is_that_of_the_candidates(self, executor: Executor) -> None:
        assert executor.place == DEFAULT_PLACE

    def test_scores_are_those_of_one_process(
        self, executor: Executor, jobs: Sequence[Job], expected: Sequence[Evaluation]
    ) -> None:
        pairs = list(executor.evaluate(jobs))
        assert sorted(index for index, _ in pairs) == list(range(len(jobs)))
        for index, found in pairs:
            assert_equal(found, expected[index])
        assert any(one.scores.any() for one in expected)

    def test_the_order_of_jobs_changes_nothing(
        self, executor: Executor, jobs: Sequence[Job], expected: Sequence[Evaluation]
    ) -> None:
        order = [7, 0, 3, 9, 1, 8, 2, 6, 5, 4]
        pairs = list(executor.evaluate([jobs[number] for number in order]))
        assert len(pairs) == len(jobs)
        for index, found in pairs:
            assert_equal(found, expected[order[index]])

    def test_equal_jobs_have_equal_scores(
        self, executor: Executor, jobs: Sequence[Job], expected: Sequence[Evaluation]
    ) -> None:
        found = list(executor.evaluate([jobs[0], jobs[2], jobs[0], jobs[1], jobs[0]]))
        assert sorted(index for index, _ in found) == [0, 1, 2, 3, 4]
        for index, evaluation in found:
            assert_equal(evaluation, expected[(0, 2, 0, 1, 0)[index]])

    def test_no_jobs_no_results(self, executor: Executor) -> None:
        assert list(executor.evaluate([])) == []

    def test_what_is_given_up_leaves_it_usable(
        self, executor: Executor, jobs: Sequence[Job], expected: Sequence[Evaluation]
    ) -> None:
        for _ in range(2):
            with closing(executor.evaluate(jobs)) as results:
                index, found = next(results)
            assert_equal(found, expected[index])
        assert_equal(evaluate_one(executor, jobs[-1].manifest, jobs[-1].task), expected[-1])
        assert len(list(executor.evaluate(jobs))) == len(jobs)

    def test_a_candidate_that_fails_scores_zero_and_says_why(
        self, executor: Executor, zoo: Zoo, caplog: pytest.LogCaptureFixture
    ) -> None:
        broken: Manifest = zoo.pool.manifest({}, ["math[0:8]"])
        fine = one_source(zoo.pool, "math")
        with caplog.at_level(logging.WARNING):
            found = dict(executor.evaluate([Job(broken, TASKS[0]), Job(fine, CHOICES)]))
        assert found[0].scores.tolist() == [0, 0, 0]
        assert found[1].scores.tolist()[1] == 1
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == 1
        assert "math[6]" in warnings[0]
