"""Search configs: the shipped one loads, mistakes are refused by name."""

from pathlib import Path
from typing import Any

import pytest
from search_cases import EXAMPLE, small, small_config, write_small

from evoserve.errors import ConfigError
from search.config import load_config, parse_config
from search.setup import build_config_optimizer, build_genome, build_pool, build_tasks
from search.tasks.item import TaskError

LAYERS = dict.fromkeys(("base", "ja", "math", "math2"), 6)


def test_the_shipped_example_loads() -> None:
    config = load_config(EXAMPLE)
    tasks = build_tasks(config, EXAMPLE.parent)
    assert [task.name for task in tasks.counted] == ["mini-en"]
    assert [task.split for task in tasks.held_out] == ["test"]
    genome = build_genome(config, build_pool(config, config.sources, LAYERS))
    assert genome.size == 6
    assert len(build_config_optimizer(config, genome).ask()) == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speed": 3}, "speed"),
        ({"seed": "0"}, "seed = '0'"),
        ({"generations": None}, "budget"),
        ({"objectives": [{"task": "nope"}]}, "no task 'nope'"),
        ({"objectives": [{"task": "mini-en", "weight": 0}]}, "objectives.0.weight = 0"),
        ({"genome": {"kind": "dfs"}}, "needs the table genome.dfs"),
        (
            {"genome": {"kind": "ps", "ps": {"method": "magic", "models": ["a"]}}},
            "genome.ps.method",
        ),
        ({"tasks": [{"name": "mini-en", "split": "search"}]}, "tasks.0: give a file"),
        ({"engine": {"gpu": 1}}, "engine.gpu"),
        ({"executor": {"kind": "threads"}}, "executor.kind"),
        ({"executor": {"workers": 2}}, "kind 'inprocess' has none"),
        ({"executor": {"kind": "ray"}}, "kind 'ray' needs workers"),
        ({"executor": {"kind": "processes", "workers": 0}}, "executor.workers = 0"),
        (
            {"executor": {"kind": "processes", "workers": 2, "address": "auto"}},
            "address belongs to kind 'ray'",
        ),
        ({"fitness": {"kind": "racing", "size": 3}}, "fitness.racing.size"),
        ({"fitness": {"kind": "minibatch", "size": 3}}, "needs a [validation] task"),
        ({"validation": {"task": "mini-en-test"}}, "is a test set"),
        ({"validation": {"task": "mini-en"}}, "a task that no objective names"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(small(**change))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("name = [", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_config(tmp_path / "missing.toml")
    assert load_config(write_small(tmp_path)).generations == 2


def test_a_test_split_is_not_searched() -> None:
    tasks = small()["tasks"]
    tasks[0]["split"] = "test"
    config = small_config(tasks=tasks)
    with pytest.raises(TaskError, match="mini-en"):
        build_tasks(config, Path())
    assert build_tasks(config, Path(), force=True).counted[0].split == "test"


def test_splits_must_not_share_questions(tmp_path: Path) -> None:
    line = '{"prompt": "1+1=", "answer": 2}\n'
    (tmp_path / "items.jsonl").write_text(line, encoding="utf-8")
    tasks = [
        {"name": "a", "file": "items.jsonl", "split": "search"},
        {"name": "b", "file": "items.jsonl", "split": "test"},
    ]
    config = small_config(tasks=tasks, objectives=[{"task": "a"}])
    with pytest.raises(TaskError, match="share the question"):
        build_tasks(config, tmp_path)


def test_items_cut_a_range(tmp_path: Path) -> None:
    lines = [f'{{"prompt": "{n}+1=", "answer": {n + 1}}}' for n in range(5)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    task = {"name": "a", "file": "items.jsonl", "split": "search", "items": [1, 3]}
    config = small_config(tasks=[task], objectives=[{"task": "a"}])
    items = build_tasks(config, tmp_path).counted[0].items
    assert [item.prompt for item in items] == ["1+1=", "2+1="]
    config = small_config(tasks=[{**task, "items": [1, 9]}], objectives=[{"task": "a"}])
    with pytest.raises(TaskError, match=r"items \[1, 9\]"):
        build_tasks(config, tmp_path)


def _genome(kind: str) -> dict[str, Any]:
    ps = {"method": "linear", "models": ["ja", "math"], "ranges": {"weights.ja": 0.5}}
    dfs = {"models": ["ja", "math"], "repeats": 1, "scales": "per_hop", "scale": {"upper": 1.5}}
    lineage = {"models": ["ja", "math"], "max_merges": 4}
    if kind == "ps_dfs":
        return {"kind": kind, "ps": ps, "dfs": {**dfs, "models": ["ps", "math"]}}
    return {"kind": kind, kind: {"ps": ps, "dfs": dfs, "lineage": lineage}[kind]}


@pytest.mark.parametrize(
    ("kind", "optimizer", "size"),
    [("ps", "cma", 1), ("dfs", "mixed", 25), ("ps_dfs", "nsga2", 26), ("lineage", "m2n2", 16)],
)
def test_every_genome_and_optimizer_builds(kind: str, optimizer: str, size: int) -> None:
    config = small_config(genome=_genome(kind), optimizer={"name": optimizer})
    genome = build_genome(config, build_pool(config, config.sources, LAYERS))
    assert genome.size == size
    assert len(build_config_optimizer(config, genome).ask()) > 0


def test_optimizer_mistakes_are_named() -> None:
    two = small()["tasks"]
    two[1]["split"] = "search"
    both = {"tasks": two, "objectives": [{"task": t["name"]} for t in two], "combine": "separate"}
    for change, message in (
        (both, "takes one objective"),
        ({"optimizer": {"name": "adam"}}, "optimizer 'adam'"),
        ({"optimizer": {"name": "cma", "settings": {"pop": 3}}}, "pop"),
        ({"optimizer": {"name": "nsga2", "settings": {"num_objectives": 3}}}, "num_objectives = 3"),
    ):
        config = small_config(**change)
        genome = build_genome(config, build_pool(config, config.sources, LAYERS))
        with pytest.raises(ConfigError, match=message):
            build_config_optimizer(config, genome)
