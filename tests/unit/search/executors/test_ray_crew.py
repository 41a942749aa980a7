"""Ray actors on a real local cluster: killed, refusing and deadly ones."""

import logging
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import executor_lab
import pytest
import ray
import ray.cloudpickle
from executor_lab import LabPlan, answer, assert_equal, crew_executor, named, sums
from executor_zoo import assert_a_kill_is_survived

from evoserve.errors import ConfigError, EngineError, SourceError
from evoserve.manifest.canonical import digest
from search.executors.dispatch import CrewExecutor
from search.executors.protocol import Job
from search.executors.ray import RayCrew, RayOptions

JOBS = [Job(named(number), sums(2)) for number in range(6)]
KILLER = digest(named(2))
HALF = RayOptions(num_cpus=0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One that the crews find and must leave alone."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.cloudpickle.register_pickle_by_value(executor_lab)  # it is not installed
    yield
    ray.cloudpickle.unregister_pickle_by_value(executor_lab)
    assert ray.is_initialized()
    ray.shutdown()


def test_a_killed_actor_s_candidate_is_evaluated_again() -> None:
    assert_a_kill_is_survived(lambda plan: RayCrew(plan, 2, HALF))


def test_a_candidate_that_kills_twice_is_still_evaluated(tmp_path: Path) -> None:
    plan = LabPlan(tmp_path, deadly=(KILLER,), lives=2)
    crew = RayCrew(plan, 2, HALF)
    with crew_executor(crew, in_flight=2) as executor:
        found = dict(executor.evaluate(JOBS))
        pids = crew.pids
        with closing(executor.evaluate(JOBS)) as results:
            next(results)
        assert len(list(executor.evaluate(JOBS))) == len(JOBS)
        assert crew.pids == pids  # who is free is used again
    assert len(found) == len(JOBS)
    for index, evaluation in found.items():
        assert_equal(evaluation, answer(JOBS[index], "here"))
        assert evaluation.scores.flags.writeable


@pytest.mark.parametrize("kind", ["deadly", "failing"])
def test_three_strikes_end_the_run_and_name_the_candidate(tmp_path: Path, kind: str) -> None:
    plan = LabPlan(tmp_path, lives=3, **{kind: (KILLER,)})  # type: ignore[arg-type]
    with (
        crew_executor(RayCrew(plan, 1, HALF)) as executor,
        pytest.raises(EngineError, match=f"{KILLER} ended its worker 3 times"),
    ):
        list(executor.evaluate(JOBS))


def test_an_actor_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing there"):
        CrewExecutor(RayCrew(LabPlan(tmp_path, refusal="nothing there"), 1, HALF))
    for start, why in (
        ("die", "worker 0 was lost before it began: ActorDiedError"),
        ("raise", "worker 0 was lost before it began: RuntimeError: no engine here"),
    ):
        with pytest.raises(EngineError, match=why):
            CrewExecutor(RayCrew(LabPlan(tmp_path, start=start), 1, HALF))


def test_without_the_library_it_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'evoserve\[ray\]'"):
        RayCrew(LabPlan(tmp_path), 1)
