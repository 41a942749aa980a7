"""The loop on the mini zoo: resumed after a kill or a stop it is the same search, bit for bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from search_cases import ROOT, graded_tasks, small, small_config, write_small

from evoserve.errors import ConfigError
from search.export import export_run
from search.fitness.validation import find_best
from search.loop import Stopped
from search.optimizers.protocol import Scored
from search.progress import Lines
from search.record import find_record
from search.session import load_order, run_order
from search.setup import build_config_optimizer, build_genome, build_pool
from search.store import Individual, Store, StoreError

NAMES = ("base", "ja", "math", "math2")
PATHS = {"repeats": 1, "scales": "per_hop", "other_start": -2.0}
MERGE = {"method": "task_arithmetic", "base": "base", "models": ["ja", "math"]}
Row = tuple[int, int, bytes, str, str, bytes]


def row(one: Individual) -> Row:
    genotype, objectives = one.genotype.tobytes(), one.objectives.tobytes()
    return one.generation, one.position, genotype, one.digest, one.manifest, objectives


def read(file: Path) -> tuple[list[Row], int]:
    """Every individual, and the number of the last generation."""
    store = Store(file)
    run = store.runs()[0][0]
    last = store.last_generation(run)
    found = [row(one) for one in store.individuals(run)], -1 if last is None else last[0]
    store.close()
    return found


def future(file: Path) -> list[bytes]:
    """What the saved state goes on with: its mean and three more generations, bit for bit.

    The state's own bytes hold cma's timers, which no two runs share.
    """
    store = Store(file)
    run, record = find_record(store, "mini-ps")
    last = store.last_generation(run)
    store.close()
    assert last is not None
    optimizer = build_config_optimizer(record.config, record.genome())
    optimizer.restore(last[1])
    seen = [np.asarray(optimizer.mean()).tobytes()]
    for _ in range(3):
        asked = optimizer.ask()
        seen += [genotype.tobytes() for genotype in asked]
        optimizer.tell([Scored(x, np.array([float(x[0] - x[1] ** 2)])) for x in asked])
    return seen


def go(config: Path, store: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
    run_order(load_order(config, store), Lines(), should_stop)


def start(config: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "search", "run", str(config), "--store", str(store)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen))


def test_a_killed_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    config = write_small(tmp_path, generations=4, tasks=graded_tasks(tmp_path))
    go(config, tmp_path / "whole.sqlite")
    killed = tmp_path / "killed.sqlite"
    process = start(config, killed)
    wait_for(process, "generation 1:")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(read(killed)[0]) < 16
    go(config, killed)
    individuals, last = read(killed)
    whole, whole_last = read(tmp_path / "whole.sqlite")
    assert individuals == whole
    assert last == whole_last == 3
    assert future(killed) == future(tmp_path / "whole.sqlite")
    assert [one[:2] for one in individuals] == [(g, p) for g in range(4) for p in range(4)]


def test_ctrl_c_stops_after_the_evaluation_and_the_run_goes_on(tmp_path: Path) -> None:
    tasks, file = graded_tasks(tmp_path), tmp_path / "runs.sqlite"
    config = write_small(tmp_path, generations=200, tasks=tasks)
    process = start(config, file)
    wait_for(process, "generation 0:")
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130, rest
    assert "Traceback" not in rest
    done = read(file)[0]
    assert 4 <= len(done) < 800
    short = write_small(tmp_path, generations=len(done) // 4 + 1, tasks=tasks)
    go(short, file)
    assert read(file)[0][: len(done)] == done
    assert len(read(file)[0]) == len(done) + 4


def test_evaluations_that_a_stop_cut_off_are_kept(tmp_path: Path) -> None:
    config, file = write_small(tmp_path, generations=1), tmp_path / "runs.sqlite"
    answers = iter([False, False, True])
    with pytest.raises(Stopped):
        go(config, file, lambda: next(answers))
    store = Store(file)
    assert store.last_generation(store.runs()[0][0]) is None
    count = store._db.execute("SELECT count(*) FROM evaluation").fetchone()[0]
    store.close()
    assert count == 2


def test_other_terms_are_refused_by_name(tmp_path: Path) -> None:
    file, tasks = tmp_path / "runs.sqlite", graded_tasks(tmp_path)
    go(write_small(tmp_path, generations=1, tasks=tasks), file)
    with pytest.raises(StoreError, match=r"another config\.seed: 0, now 7"):
        go(write_small(tmp_path, generations=1, tasks=tasks, seed=7), file)
    fewer = [{**tasks[0], "items": [0, 5]}]
    with pytest.raises(StoreError, match=r"another tasks\.mini-en"):
        go(write_small(tmp_path, generations=1, tasks=fewer), file)
    go(write_small(tmp_path, generations=2, tasks=tasks, description="more of it"), file)
    assert len(read(file)[0]) == 8


def test_a_state_after_equal_scores_comes_back() -> None:
    config = small_config()
    genome = build_genome(config, build_pool(config, config.sources, dict.fromkeys(NAMES, 6)))
    optimizer, other = (build_config_optimizer(config, genome) for _ in range(2))
    optimizer.tell([Scored(x, np.zeros(1)) for x in optimizer.ask()])
    other.restore(optimizer.state())
    for one, two in zip(optimizer.ask(), other.ask(), strict=True):
        assert one.tobytes() == two.tobytes()


@pytest.mark.parametrize(
    ("genome", "optimizer"),
    [
        ({"kind": "dfs", "dfs": {**PATHS, "models": ["math", "ja"]}}, "mixed"),
        ({"kind": "ps_dfs", "ps": MERGE, "dfs": {**PATHS, "models": ["ps", "ja"]}}, "random"),
        ({"kind": "lineage", "lineage": {"models": ["ja", "math"], "max_merges": 4}}, "m2n2"),
    ],
)
def test_every_kind_of_genome_runs(
    tmp_path: Path, genome: dict[str, object], optimizer: str
) -> None:
    settings = {"name": optimizer, "settings": {"population": 2}}
    tasks = small()["tasks"][:1]
    tasks[0]["count"] = 4
    changes = {"genome": genome, "optimizer": settings, "tasks": tasks, "generations": 2}
    go(write_small(tmp_path, **changes), tmp_path / "runs.sqlite")
    individuals, last = read(tmp_path / "runs.sqlite")
    assert last == 1
    assert len({one[3] for one in individuals}) > 1


def test_mini_batches_are_told_apart_by_validation(tmp_path: Path) -> None:
    """The paper's data-flow protocol in small: other items each generation, the best by others."""
    tasks = small()["tasks"]
    tasks[0]["count"], tasks[1] = 16, {**tasks[1], "split": "validation", "count": 12}
    changes = {
        "fitness": {"kind": "minibatch", "size": 8},
        "validation": {"task": tasks[1]["name"]},
        "tasks": tasks,
        "generations": 3,
    }
    config, file = write_small(tmp_path, **changes), tmp_path / "runs.sqlite"
    go(config, file)
    store = Store(file)
    individuals = store.individuals(1)
    asked = [~np.isnan(one.items) for one in individuals]
    assert [int(mask.sum()) for mask in asked] == [8] * len(individuals)
    assert len({mask.tobytes() for mask in asked}) == 3
    ((_, manifest),) = export_run(store, "mini-ps", "validated")
    with pytest.raises(ConfigError, match="asked every generation other items"):
        export_run(store, "mini-ps", "best")
    store.close()
    chosen = [one for one in individuals if one.generation == manifest.provenance["generation"]]
    assert manifest.provenance["individual"] == find_best(chosen).position
    assert [one.task for one in manifest.evaluation] == ["mini-en", "mini-en-test"]


@pytest.mark.parametrize(
    "fitness",
    [
        {"kind": "racing", "chunk": 6, "keep": 0.25},
        {"kind": "irt", "size": 4, "calibrate": 1},
    ],
)
def test_cheaper_fitness_resumes_bit_for_bit(tmp_path: Path, fitness: dict[str, object]) -> None:
    whole, parts = tmp_path / "whole.sqlite", tmp_path / "parts.sqlite"
    tasks = graded_tasks(tmp_path)
    go(write_small(tmp_path, generations=3, tasks=tasks, fitness=fitness), whole)
    for generations in (1, 2, 3):
        go(write_small(tmp_path, generations=generations, tasks=tasks, fitness=fitness), parts)
    assert read(parts) == read(whole)
