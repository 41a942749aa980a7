"""The paper's table in miniature, on the mini zoo: `make reproduce`.

    python -m benchmarks.reproduce [--folder DIR] [--seeds 0 1 2] [--docs FILE] [--quick]

Scores every source and every plain merge, runs the searches of `models/searches/mini-ja-*.toml`
once per seed (PS, DFS, then DFS over the evolved merge) and the two-objective search, and writes
the table with the held-out scores as they come out. Everything that is known is in the folder's
store: stopped or killed, it goes on where it was.
"""

import argparse
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reproduce_table import TEST, Row, write_docs
from evoserve.manifest.load import save_manifest, write_text
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.schema import Manifest
from search.config import SearchConfig, TaskConfig, parse_config
from search.evaluate import Evaluator
from search.executors.protocol import Job
from search.executors.remember import RememberingExecutor
from search.export import export_run, list_kinds
from search.genome import baselines
from search.genome.pool import Pool
from search.opened import open_sources
from search.progress import Reporter, open_reporter
from search.record import find_record
from search.report.data import Report, ScoreMap
from search.report.gather import gather_report
from search.report.page import build_page
from search.session import Order, run_order
from search.setup import build_pool, build_settings, build_source_locator, build_tasks
from search.store import Store

SEARCHES = Path(__file__).parents[1] / "models/searches"
BASE, JAPANESE, EXPERTS = "base", "ja", ("ja", "math", "math2")
EVOLVED = "evolved"
PS, DFS, PS_DFS, FRONT = "mini-ja-ps", "mini-ja-dfs", "mini-ja-ps-dfs", "mini-ja-front"
_QUICK_ITEMS, _QUICK_GENERATIONS = 8, 1


@dataclass(frozen=True)
class Plan:
    """folder: store and recipes; seeds: one of each search per seed; is_quick: tiny, for tests."""

    folder: Path
    seeds: Sequence[int]
    is_quick: bool = False

    @property
    def store(self) -> Path:
        """The SQLite file of all runs and scores."""
        return self.folder / "reproduction.sqlite"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not known yet, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("reproduction"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--docs", type=Path, default=Path("docs/reproduction.md"))
    parser.add_argument("--quick", action="store_true", help="a few items and one generation")
    args = parser.parse_args(argv)
    start = time.monotonic()
    with open_reporter() as reporter:
        plan = Plan(args.folder, args.seeds, args.quick)
        plan.folder.mkdir(parents=True, exist_ok=True)
        rows = reproduce(plan, reporter)
    write_docs(args.docs, rows, wall_s=time.monotonic() - start, is_quick=args.quick)
    page = args.docs.with_suffix(".html")
    write_report(page, plan, rows)
    print(f"{args.docs} and {page} written", file=sys.stderr)


def reproduce(plan: Plan, reporter: Reporter) -> list[Row]:
    """Every row of the table, in its order."""
    rows = list(_score_plain(plan, _load(plan, PS), reporter))
    for seed in plan.seeds:
        evolved = _search(plan, PS, seed, reporter)
        rows += _rows("PS", "evolved", seed, evolved)
        rows += _rows("DFS", "evolved", seed, _search(plan, DFS, seed, reporter))
        merge = next(iter(evolved["best"].merges.values()))
        over = _search(plan, PS_DFS, seed, reporter, merge)
        rows += _rows("PS+DFS", "evolved", seed, over)
        rows += _rows("NSGA-II", "front", seed, _search(plan, FRONT, seed, reporter))
    return rows


def write_report(file: Path, plan: Plan, rows: Sequence[Row]) -> None:
    """One page: who solves what over all rows, then the first seed's runs."""
    known = [row for row in rows if TEST in row.scores]
    names = tuple(f"{row.label}{'' if row.seed is None else f', {row.seed}'}" for row in known)
    scores = tuple(row.scores[TEST] for row in known)
    title = "Test items by sources, plain merges and evolved recipes (with their seed)"
    overview = Report("The paper in miniature", "", (ScoreMap(title, names, scores),))
    store = Store(plan.store)
    try:
        first = plan.seeds[0]
        runs = [gather_report(store, f"{name}-{first}") for name in (PS, DFS, PS_DFS, FRONT)]
    finally:
        store.close()
    write_text(file, build_page("The paper in miniature", [overview, *runs]))


def plain_merges(pool: Pool) -> Iterator[tuple[str, Manifest]]:
    """Merges without a search, at the values that their papers or their users start from."""
    yield "uniform average", baselines.uniform_average(pool, EXPERTS)
    for weight in (0.5, 1.0):
        merge = baselines.task_arithmetic(pool, BASE, EXPERTS, weight)
        yield f"task arithmetic, weights {weight:g}", merge
    for weight, density in ((1.0, 0.2), (1.0, 0.5), (0.5, 0.5)):
        merge = baselines.ties(pool, BASE, EXPERTS, weight, density)
        yield f"TIES, weights {weight:g}, density {density:g}", merge
    for weight, density in ((1.0, 0.5), (0.5, 0.5)):
        merge = baselines.dare_ties(pool, BASE, EXPERTS, weight, density)
        yield f"DARE-TIES, weights {weight:g}, density {density:g}", merge
    for expert in EXPERTS[1:]:
        for edge in (1, 2):
            merge = baselines.layer_swap(pool, JAPANESE, expert, edge, edge)
            yield f"layer swap, {expert} between {edge} + {edge} layers of ja", merge
        merge = baselines.frankenmerge(pool, expert, JAPANESE)
        yield f"frankenmerge, {expert} then ja", merge


def _score_plain(plan: Plan, config: SearchConfig, reporter: Reporter) -> Iterator[Row]:
    sources = open_sources(config.sources, build_source_locator(config, SEARCHES))
    pool = build_pool(config, sources.specs, sources.num_layers)
    tasks = build_tasks(config, SEARCHES).all
    known = [("source", name, baselines.one_source(pool, name)) for name in (BASE, *EXPERTS)]
    known += [("plain", label, manifest) for label, manifest in plain_merges(pool)]
    jobs = [Job(manifest, task) for _, _, manifest in known for task in tasks]
    store = Store(plan.store)
    try:
        with Evaluator(sources, build_settings(config, SEARCHES)) as evaluator:
            results = dict(RememberingExecutor(store, evaluator).evaluate(jobs))
    finally:
        store.close()
    for number, (kind, label, _) in enumerate(known):
        scores = {
            task.name: tuple(results[number * len(tasks) + n].scores.tolist())
            for n, task in enumerate(tasks)
        }
        reporter.note(f"{label}: scored")
        yield Row(label, kind, None, scores)


def _search(
    plan: Plan, name: str, seed: int, reporter: Reporter, evolved: MergeSpec | None = None
) -> dict[str, Manifest]:
    """Run a search with this seed to its end; its recipes by label, saved in the folder too."""
    run = f"{name}-{seed}"
    config = _load(plan, name, evolved).model_copy(update={"name": run, "seed": seed})
    reporter.note(f"{run}:")
    run_order(Order(config, SEARCHES, plan.store), reporter, lambda: False)
    store = Store(plan.store)
    try:
        kinds = list_kinds(store, *find_record(store, run))
        recipes = dict(pair for kind in kinds for pair in export_run(store, run, kind))
    finally:
        store.close()
    for label, manifest in recipes.items():
        save_manifest(manifest, plan.folder / "recipes" / f"{run}-{label}.json")
    return recipes


def _rows(label: str, kind: str, seed: int, recipes: dict[str, Manifest]) -> Iterator[Row]:
    for name, manifest in recipes.items():
        scores = {one.task: one.items for one in manifest.evaluation if one.items is not None}
        yield Row(f"{label}, {name}", kind, seed, scores)


def _load(plan: Plan, name: str, evolved: MergeSpec | None = None) -> SearchConfig:
    """The shipped config; `evolved` in the place of the recipe that it names."""
    document = tomllib.loads((SEARCHES / f"{name}.toml").read_text(encoding="utf-8"))
    if evolved is not None:
        merge = evolved.model_dump(mode="json", exclude_unset=True)
        document["genome"]["merges"] = {EVOLVED: merge}
    config = parse_config(document)
    if not plan.is_quick:
        return config
    tasks = tuple(_shortened(task) for task in config.tasks)
    settings = {**config.optimizer.settings, "population": 4}
    optimizer = config.optimizer.model_copy(update={"settings": settings})
    changes = {"tasks": tasks, "optimizer": optimizer, "generations": _QUICK_GENERATIONS}
    return config.model_copy(update=changes)


def _shortened(task: TaskConfig) -> TaskConfig:
    return task.model_copy(update={"items": (0, _QUICK_ITEMS), "max_new_tokens": 64})


if __name__ == "__main__":
    main()
