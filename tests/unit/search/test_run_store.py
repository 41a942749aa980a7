"""The store: whole generations or nothing, one writer per run, results kept across kills."""

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search.store import Evaluation, Individual, Store, StoreError


def individual(generation: int, position: int) -> Individual:
    numbers = np.array([0.1 * position, -1.5, 1e-300])
    items = np.array([1.0, np.nan, 0.25])
    known = f"sha256:{position}"
    return Individual(generation, position, numbers, known, "{}", np.array([0.5]), items)


def same(a: Individual, b: Individual) -> bool:
    return (
        (a.generation, a.position, a.digest, a.manifest)
        == (b.generation, b.position, b.digest, b.manifest)
        and a.genotype.tobytes() == b.genotype.tobytes()
        and a.objectives.tobytes() == b.objectives.tobytes()
        and a.items.tobytes() == b.items.tobytes()
    )


def test_generations_come_back_bit_for_bit(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "runs.sqlite")
    run = store.open_run("a", "seed = 1")
    assert store.last_generation(run) is None
    written = [individual(0, p) for p in range(4)]
    store.save_generation(run, b"state-0", written, 1.5)
    store.save_generation(run, b"state-1", [individual(1, 0)], 0.5)
    store.close()
    again = Store(tmp_path / "deep" / "runs.sqlite")
    assert again.last_generation(run) == (1, b"state-1")
    read = again.individuals(run)
    assert len(read) == 5
    assert all(same(a, b) for a, b in zip(written, read, strict=False))


def test_a_failing_generation_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.sqlite")
    run = store.open_run("a", "")
    twice = [individual(0, 0), individual(0, 0)]
    with pytest.raises(sqlite3.IntegrityError):
        store.save_generation(run, b"s", twice, 0)
    assert store.last_generation(run) is None
    assert store.individuals(run) == []
    store.save_generation(run, b"s", [individual(0, 0)], 0)


def test_another_config_under_the_same_name_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.sqlite")
    assert store.open_run("a", "x") == store.open_run("a", "x")
    with pytest.raises(StoreError, match="run 'a' was begun with another config"):
        store.open_run("a", "y")


def test_evaluations_are_kept_by_recipe_and_task(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs.sqlite")
    scores = np.array([1.0, 0.0, np.nan])
    store.save_evaluation(Evaluation("d", "t", scores, "sha256:o", 0.25))
    store.save_evaluation(Evaluation("d", "t", scores * 0, "sha256:other", 9))
    found = store.evaluation("d", "t")
    assert found is not None
    assert found.scores.tobytes() == scores.tobytes()
    assert (found.outputs, found.seconds) == ("sha256:o", 0.25)
    assert store.evaluation("d", "u") is None


def test_foreign_and_newer_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "text.sqlite"
    file.write_text("this is no database, but it is longer than a header would be" * 20)
    with pytest.raises(StoreError, match="not a store"):
        Store(file)
    newer = tmp_path / "newer.sqlite"
    sqlite3.connect(newer).execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="version 99"):
        Store(newer)


HOLD = """
import sys
from pathlib import Path
from search.store import Store
store = Store(Path(sys.argv[1]))
with store.lock_run("a"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_per_run_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    store = Store(file)
    with pytest.raises(StoreError, match="in use"), store.lock_run("a"):
        pass
    with store.lock_run("b"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with store.lock_run("a"):
        pass


WRITE_FOREVER = """
import sys, itertools
from pathlib import Path
import numpy as np
from search.store import Individual, Store
store = Store(Path(sys.argv[1]))
run = store.open_run("a", "")
for number in itertools.count():
    vector, score = np.full(50, number), np.zeros(1)
    rows = [Individual(number, p, vector, "d", "m" * 2000, score, vector) for p in range(8)]
    store.save_generation(run, str(number).encode(), rows, 0)
    print(number, flush=True)
"""


def test_kill_keeps_every_generation_that_was_reported(tmp_path: Path) -> None:
    file = tmp_path / "runs.sqlite"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOREVER, str(file)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    reported = -1
    while reported < 20:
        reported = int(writer.stdout.readline())
    writer.kill()
    rest = writer.stdout.read().splitlines()
    writer.wait()
    writer.stdout.close()
    reported = max([reported, *(int(line) for line in rest if line)])
    store = Store(file)
    last = store.last_generation(1)
    assert last is not None
    assert last[0] >= reported
    assert last[1] == str(last[0]).encode()
    rows = store.individuals(1)
    assert len(rows) == 8 * (last[0] + 1)
