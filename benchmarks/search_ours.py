"""Our side of `benchmarks.search`: searches on one open evaluator, and where their time goes."""

import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import search.evaluate
from evoserve.engine.torch_engine import TorchEngine
from evoserve.manifest.schema import Manifest
from search.config import SearchConfig
from search.evaluate import Evaluator
from search.executors.protocol import evaluate_one, task_key
from search.executors.remember import RememberingExecutor
from search.fitness.full import FullFitness
from search.loop import Desk, Search, run_search
from search.opened import open_sources
from search.optimizers.protocol import Optimizer
from search.progress import Lines, Tally
from search.record import RunRecord, current_versions, describe_tasks, open_record
from search.replies import Asker
from search.setup import (
    build_config_optimizer,
    build_genome,
    build_pool,
    build_settings,
    build_source_locator,
    build_tasks,
)
from search.store import Store

PARTS = ("generation", "build", "scoring", "store", "optimizer")


@dataclass
class Clock:
    """When each part of a search ran, as (start, end); parts of two candidates can overlap."""

    spans: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {part: [] for part in PARTS}
    )

    def covered_s(self, part: str) -> float:
        """Seconds in which the part ran for at least one candidate."""
        total, reached = 0.0, float("-inf")
        for start, end in sorted(self.spans[part]):
            total += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return total


class Ours:
    """A search config on one evaluator that stays open; every round is a search of its own."""

    def __init__(self, config: SearchConfig, folder: Path) -> None:
        """Opens the sources and starts the engine."""
        self._config = config
        self._tasks = build_tasks(config, folder)
        self._sources = open_sources(config.sources, build_source_locator(config, folder))
        pool = build_pool(config, self._sources.specs, self._sources.num_layers)
        self._genome = build_genome(config, pool)
        self._evaluator = Evaluator(self._sources, build_settings(config, folder))

    def manifests(self, seed: int) -> list[Manifest]:
        """The recipes that a round with this seed will score, in order."""
        optimizer = build_config_optimizer(self._seeded(seed), self._genome)
        return [self._genome.decode(genotype) for genotype in optimizer.ask()]

    def score(self, manifest: Manifest) -> float:
        """The mean score of one recipe."""
        return float(evaluate_one(self._evaluator, manifest, self._tasks.counted[0]).scores.mean())

    def run(self, seed: int) -> dict[str, float]:
        """Search one generation into an empty store, as `evosearch run` does; seconds per part."""
        config = self._seeded(seed)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            store = Store(folder / "store.sqlite")
            stack.callback(store.close)
            executor = RememberingExecutor(store, self._evaluator)
            optimizer = build_config_optimizer(config, self._genome)
            fitness = FullFitness(executor, self._tasks.counted)
            desk = Desk(store, self._record(config, store), _Quiet(), lambda: False)
            clock = stack.enter_context(_timed(optimizer))
            before = self._num_tokens()
            start = time.perf_counter()
            run_search(Search(config, self._genome, optimizer, fitness), desk)
            total_s = time.perf_counter() - start
            scores = [each.objectives[0] for each in store.individuals(desk.run)]
        parts = {f"{part}_s": clock.covered_s(part) for part in PARTS}
        return {
            "total_s": total_s,
            "num_candidates": len(scores),
            "num_tokens": self._num_tokens() - before,
            "mean_score": float(sum(scores) / len(scores)),
            **parts,
        }

    def close(self) -> None:
        """Stop the engine."""
        self._evaluator.close()

    def _seeded(self, seed: int) -> SearchConfig:
        return self._config.model_copy(update={"seed": seed})

    def _record(self, config: SearchConfig, store: Store) -> int:
        first = self._genome.decode(self._genome.initial)
        place = self._evaluator.place
        keys = {task.digest: task_key(first, task, place) for task in self._tasks.all}
        tasks = describe_tasks(self._tasks, keys)
        versions = current_versions(config.optimizer.name)
        record = RunRecord(config, self._sources.specs, self._sources.num_layers, tasks, versions)
        return open_record(store, record)

    def _num_tokens(self) -> int:
        return self._evaluator._engine.stats().num_generated_tokens


class _Quiet(Lines):
    """Says nothing; timing is printed by the benchmark."""

    def generation(self, tally: Tally) -> None:
        del tally


@contextmanager
def _timed(optimizer: Optimizer) -> Iterator[Clock]:
    """Note when each part of a search runs, in place of the functions that do it."""
    clock = Clock()
    seams: list[tuple[Any, str, str]] = [
        (search.evaluate, "score_reply", "scoring"),
        (Store, "evaluation", "store"),
        (Store, "save_evaluation", "store"),
        (Store, "save_generation", "store"),
        (optimizer, "ask", "optimizer"),
        (optimizer, "tell", "optimizer"),
        (optimizer, "state", "optimizer"),
    ]
    waits: list[tuple[Any, str, str]] = [
        (Asker, "replies", "generation"),
        (TorchEngine, "load", "build"),
    ]
    with ExitStack() as stack:
        for owner, name, part in seams:
            _replace(stack, owner, name, _noting(getattr(owner, name), clock.spans[part]))
        for owner, name, part in waits:
            _replace(stack, owner, name, _noting_wait(getattr(owner, name), clock.spans[part]))
        yield clock


def _replace(stack: ExitStack, owner: Any, name: str, function: Callable[..., Any]) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, function)


def _noting(function: Callable[..., Any], spans: list[tuple[float, float]]) -> Callable[..., Any]:
    def noted(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spans.append((start, time.perf_counter()))

    return noted


def _noting_wait(
    function: Callable[..., Awaitable[Any]], spans: list[tuple[float, float]]
) -> Callable[..., Awaitable[Any]]:
    async def noted(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return await function(*arguments, **named)
        finally:
            spans.append((start, time.perf_counter()))

    return noted
