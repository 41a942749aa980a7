"""Worker processes: killed, stuck, refusing and orphaned ones."""

import logging
import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from executor_lab import LabPlan, answer, assert_equal, crew_executor, named, sums
from executor_zoo import assert_a_kill_is_survived, open_zoo

from evoserve.errors import DigestMismatch, EngineError, SourceError
from evoserve.manifest.canonical import digest
from search.executors.dispatch import CrewExecutor
from search.executors.plan import with_threads
from search.executors.processes import ProcessCrew
from search.executors.protocol import Job

JOBS = [Job(named(number), sums(2)) for number in range(6)]
KILLER = digest(named(2))


def test_a_killed_worker_s_candidate_is_evaluated_again() -> None:
    assert_a_kill_is_survived(lambda plan: ProcessCrew(plan, 2))


def test_a_candidate_that_kills_twice_is_still_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = LabPlan(tmp_path, deadly=(KILLER,), lives=2)
    with crew_executor(ProcessCrew(plan, 2), in_flight=2) as executor:
        with caplog.at_level(logging.WARNING):
            found = dict(executor.evaluate(JOBS))
        assert len(found) == len(JOBS)
        for index, evaluation in found.items():
            assert_equal(evaluation, answer(JOBS[index], "here"))
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("was killed by SIGKILL (out of memory?)" in text for text in warnings) == 2


@pytest.mark.parametrize("kind", ["deadly", "failing"])
def test_three_strikes_end_the_run_and_name_the_candidate(tmp_path: Path, kind: str) -> None:
    plan = replace(LabPlan(tmp_path, lives=3), **{kind: (KILLER,)})
    with crew_executor(ProcessCrew(plan, 2)) as executor:
        with pytest.raises(EngineError, match=f"{KILLER} ended its worker 3 times"):
            list(executor.evaluate(JOBS))
        assert len(list(executor.evaluate(JOBS))) == len(JOBS)  # the fourth time it lives


def test_a_source_that_changed_is_refused_before_anything_is_evaluated() -> None:
    zoo = open_zoo()
    spec = zoo.sources.specs["ja"]
    wrong = spec.model_copy(update={"digest": "sha256:" + "0" * 64})
    plan = replace(zoo.plan, sources={**zoo.sources.specs, "ja": wrong})
    with pytest.raises(DigestMismatch, match="ja"):
        CrewExecutor(ProcessCrew(plan, 1))


def test_a_worker_that_cannot_begin_says_why(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing there"):
        CrewExecutor(ProcessCrew(LabPlan(tmp_path, refusal="nothing there"), 2))
    for start, why in (
        ("die", "lost before it began: its process [0-9]+ was killed by SIGKILL"),
        ("raise", "lost before it began: RuntimeError: no engine here"),
        ("roam", "runs on .*here, others on"),
    ):
        with pytest.raises(EngineError, match=why):
            CrewExecutor(ProcessCrew(LabPlan(tmp_path, start=start), 2))


def test_a_worker_that_cannot_be_replaced_ends_it(tmp_path: Path) -> None:
    plan = LabPlan(tmp_path, start="vanish", deadly=(KILLER,))
    with (
        crew_executor(ProcessCrew(plan, 1)) as executor,
        pytest.raises(EngineError, match="a new one cannot begin: the folder is gone"),
    ):
        list(executor.evaluate(JOBS))


def test_a_worker_killed_while_idle_is_replaced(tmp_path: Path) -> None:
    crew = ProcessCrew(LabPlan(tmp_path), 1)
    with crew_executor(crew) as executor:
        os.kill(crew.pids[0], signal.SIGKILL)
        assert len(list(executor.evaluate(JOBS))) == len(JOBS)


def test_interrupts_and_early_ends_leave_workers_alone(tmp_path: Path) -> None:
    crew = ProcessCrew(LabPlan(tmp_path), 2)
    with crew_executor(crew) as executor:
        pids = crew.pids
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        for _ in range(3):
            with closing(executor.evaluate(JOBS)) as results:
                next(results)
        assert len(list(executor.evaluate(JOBS))) == len(JOBS)
        assert crew.pids == pids


def test_close_ends_every_process(tmp_path: Path) -> None:
    crew = ProcessCrew(LabPlan(tmp_path), 2)
    with crew_executor(crew) as executor:
        pids = crew.pids
        next(executor.evaluate(JOBS))
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    executor.close()  # a second time is harmless


ORPHANS = """
import os, pathlib, signal, sys
from executor_lab import LabPlan
from search.executors.dispatch import CrewExecutor
from search.executors.processes import ProcessCrew
if __name__ == "__main__":
    CrewExecutor(ProcessCrew(LabPlan(pathlib.Path(sys.argv[1])), 2))
    print("begun", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    ended = subprocess.run(
        [sys.executable, script, tmp_path],
        stdout=subprocess.PIPE,  # read until nobody holds it, the workers included
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        timeout=60,
    )
    assert ended.stdout == b"begun\n"
    assert ended.returncode == -signal.SIGKILL


def test_threads_are_divided_unless_they_are_set() -> None:
    plan = open_zoo().plan
    assert with_threads(plan, 4).settings.threads == 1
    free = replace(plan, settings=plan.settings.model_copy(update={"threads": 0}))
    assert with_threads(free, 4).settings.threads == 4
    assert with_threads(free, 0).settings.threads == 1
