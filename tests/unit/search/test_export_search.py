"""Exports carry their evidence: what is in the manifest is what a new evaluation finds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from search_cases import EXAMPLE, ROOT, dump_toml, small, write_small
from typer.testing import CliRunner

from evoserve.errors import ConfigError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import load_manifest
from evoserve.manifest.parts import SourceSpec
from search.cli import app
from search.config import load_config
from search.evaluate import Evaluator
from search.executors.protocol import evaluate_one
from search.export import export_run, find_front
from search.opened import open_sources
from search.progress import Lines
from search.session import load_order, run_order
from search.setup import build_settings, build_source_locator, build_tasks
from search.store import Individual, Store, StoreError


def run(config: Path, store: Path) -> None:
    run_order(load_order(config, store), Lines(), lambda: False)


def test_the_example_runs_and_its_exports_hold(tmp_path: Path) -> None:
    config, file = write_small(tmp_path, generations=1), tmp_path / "runs.sqlite"
    run(config, file)
    out = tmp_path / "out"
    for what in ("best", "mean", "front"):
        arguments = ["export", "mini-ps", "-o", str(out), "--what", what, "--store", str(file)]
        assert CliRunner().invoke(app, arguments).exit_code == 0
    shown = CliRunner().invoke(app, ["status", "--store", str(file)])
    assert "mini-ps: cma, 1 generations, 4 individuals" in shown.output
    checked = load_config(config)
    locator = build_source_locator(checked, tmp_path)
    tasks = build_tasks(checked, tmp_path)
    for name in ("mini-ps-best", "mini-ps-mean"):
        manifest = load_manifest(out / f"{name}.json")
        assert [one.task for one in manifest.evaluation] == ["mini-en", "mini-en-test"]
        assert manifest.provenance["run"] == "mini-ps"
        assert manifest.provenance["optimizer"] == "cma"
        assert "version_torch" in manifest.provenance
        sources = open_sources(manifest.sources, locator)
        with Evaluator(sources, build_settings(checked, tmp_path)) as evaluator:
            for spec, task in zip(manifest.evaluation, tasks.all, strict=True):
                again = evaluate_one(evaluator, manifest, task)
                assert spec.items == tuple(again.scores.tolist())
                assert spec.outputs_digest == again.outputs
                assert spec.task_digest == task.digest
                assert spec.score == pytest.approx(np.mean(again.scores))
                assert spec.interval is not None
                assert spec.interval[0] <= spec.score <= spec.interval[1]
    best = load_manifest(out / "mini-ps-best.json")
    store = Store(file)
    scores = [float(one.objectives[0]) for one in store.individuals(1)]
    assert best.evaluation[0].score == pytest.approx(max(scores))
    store.close()


def test_several_objectives_give_a_front(tmp_path: Path) -> None:
    tasks = small()["tasks"]
    tasks[1] = {**tasks[1], "name": "mini-ja", "split": "search", "language": "ja"}
    tasks[0]["count"] = tasks[1]["count"] = 6
    config = write_small(
        tmp_path,
        generations=1,
        tasks=tasks,
        objectives=[{"task": task["name"]} for task in tasks],
        combine="separate",
        optimizer={"name": "nsga2", "settings": {"population": 4}},
    )
    run(config, tmp_path / "runs.sqlite")
    store = Store(tmp_path / "runs.sqlite")
    front = export_run(store, "mini-ps", "front")
    assert front
    assert all(len(manifest.evaluation) == 2 for _, manifest in front)
    with pytest.raises(ConfigError, match="export its front"):
        export_run(store, "mini-ps", "best")
    with pytest.raises(ConfigError, match="no mean"):
        export_run(store, "mini-ps", "mean")
    with pytest.raises(StoreError, match="there are: mini-ps"):
        export_run(store, "other", "best")
    store.close()


def test_the_front_is_what_nothing_dominates() -> None:
    values = [(0.1, 0.9), (0.5, 0.5), (0.5, 0.4), (0.9, 0.1), (0.5, 0.5), (0.0, 0.9)]
    individuals = [
        Individual(0, n, np.zeros(1), f"d{n}", "{}", np.array(pair), np.zeros(0))
        for n, pair in enumerate(values)
    ]
    assert [one.position for one in find_front(individuals)] == [3, 1, 4, 0]
    twice = [
        *individuals,
        Individual(1, 0, np.zeros(1), "d3", "{}", np.array(values[3]), np.zeros(0)),
    ]
    assert [one.generation for one in find_front(twice)] == [0, 0, 0, 0]


def test_local_sources_are_exported_with_their_whole_path(tmp_path: Path) -> None:
    config = load_config(EXAMPLE)
    locator = build_source_locator(config, ROOT / "models/searches")
    found = open_sources({"a": SourceSpec(model="../mini/ja")}, locator)
    named = open_sources({"a": SourceSpec(model="mini/ja")}, locator)
    assert Path(found.specs["a"].model) == ROOT / "models/mini/ja"
    assert named.specs["a"].model == "mini/ja"
    assert found.specs["a"].digest == named.specs["a"].digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "{tmp}/none.toml"], "none.toml"),
        (["run", "{tmp}/wrong.toml"], "speed"),
        (["run", "{tmp}/test.toml", "--store", "{tmp}/a.sqlite"], "is a test set"),
        (["status", "--store", "{tmp}/none.sqlite"], "no such store"),
        (["export", "x", "-o", "{tmp}", "--store", "{tmp}/junk.sqlite"], "not a store"),
    ],
)
def test_input_errors_are_one_line_and_exit_2(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    tasks = small()["tasks"]
    tasks[0]["split"] = "test"
    (tmp_path / "test.toml").write_text(dump_toml(small(tasks=tasks)), encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(dump_toml(small(speed=1)), encoding="utf-8")
    (tmp_path / "junk.sqlite").write_text("no store " * 100, encoding="utf-8")
    command = [sys.executable, "-m", "search", *(a.format(tmp=tmp_path) for a in arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_digests_do_not_know_the_evidence(tmp_path: Path) -> None:
    run(write_small(tmp_path, generations=1), tmp_path / "runs.sqlite")
    store = Store(tmp_path / "runs.sqlite")
    ((_, manifest),) = export_run(store, "mini-ps", "best")
    assert digest(manifest) in {one.digest for one in store.individuals(1)}
    assert json.loads(manifest.model_dump_json())["evaluation"]
    store.close()
