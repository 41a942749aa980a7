"""The search itself: ask, evaluate, tell, save; a killed run goes on as if nothing had happened."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evoserve.errors import ConfigError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import dump_manifest
from search.config import SearchConfig
from search.evaluate import Judge
from search.genome.encoded import EncodedGenome
from search.genome.protocol import Vector
from search.optimizers.protocol import Optimizer, Scored
from search.progress import Reporter, Tally
from search.store import Evaluation, Individual, Store
from search.tasks.item import Task


class Stopped(Exception):
    """The user asked to stop; everything evaluated so far is in the store."""


@dataclass(frozen=True, eq=False)
class Search:
    """A search that is ready to run; tasks: the counted ones, in the objectives' order."""

    config: SearchConfig
    genome: EncodedGenome
    optimizer: Optimizer
    tasks: tuple[Task, ...]


@dataclass(frozen=True, eq=False)
class Desk:
    """Where a search runs: store and run, who scores, who is told; should_stop is asked after
    every evaluation."""

    store: Store
    run: int
    judge: Judge
    reporter: Reporter
    should_stop: Callable[[], bool]


def run_search(search: Search, desk: Desk) -> None:
    """Go on from the store's last whole generation until the budget or the optimizer ends it.

    Every generation is saved in one transaction with the optimizer's state after it. Raises
    Stopped, ConfigError for a state of other library versions, and what the judge raises.
    """
    tally = _resume(search, desk)
    while not _is_over(search, tally):
        start = time.monotonic()
        individuals = _run_generation(search, desk, tally)
        desk.store.save_generation(
            desk.run, search.optimizer.state(), individuals, time.monotonic() - start
        )
        desk.reporter.generation(tally)
        tally.next_generation(tally.generation + 1)


def combine(config: SearchConfig, evaluations: Sequence[Evaluation]) -> NDArray[np.float64]:
    """The objectives (num_objectives,) that mean scores (one per counted task) make."""
    means = np.array([float(np.mean(each.scores)) for each in evaluations])
    if config.combine == "separate":
        return means
    weights = np.array([objective.weight for objective in config.objectives])
    return np.array([float(means @ weights / weights.sum())])


def _resume(search: Search, desk: Desk) -> Tally:
    tally = Tally(target=_target(search.config, search.optimizer))
    last = desk.store.last_generation(desk.run)
    if last is None:
        return tally
    number, state = last
    try:
        search.optimizer.restore(state)
    except ValueError as error:
        raise ConfigError(f"run '{search.config.name}' cannot go on: {error}") from None
    for individual in desk.store.individuals(desk.run):
        tally.num_done += 1
        tally.raise_best(individual.objectives.tolist())
    tally.next_generation(number + 1)
    desk.reporter.note(f"resumed after generation {number}, {tally.num_done} individuals")
    return tally


def _run_generation(search: Search, desk: Desk, tally: Tally) -> list[Individual]:
    scored: list[Scored] = []
    individuals: list[Individual] = []
    for position, genotype in enumerate(search.optimizer.ask()):
        individual, items = _score(search, desk, (tally.generation, position), genotype)
        individuals.append(individual)
        scored.append(Scored(genotype, individual.objectives, items))
        tally.add(individual.objectives.tolist())
        desk.reporter.individual(tally)
    search.optimizer.tell(scored)
    return individuals


def _score(
    search: Search, desk: Desk, place: tuple[int, int], genotype: Vector
) -> tuple[Individual, NDArray[np.float64]]:
    """The individual and its per-item scores, all counted tasks in a row."""
    manifest = search.genome.decode(genotype)
    evaluations = []
    for task in search.tasks:
        if desk.should_stop():
            raise Stopped
        evaluations.append(desk.judge.evaluate(manifest, task))
    objectives = combine(search.config, evaluations)
    text = dump_manifest(manifest)
    individual = Individual(*place, genotype, digest(manifest), text, objectives)
    return individual, np.concatenate([each.scores for each in evaluations])


def _is_over(search: Search, tally: Tally) -> bool:
    config = search.config
    if config.generations is not None and tally.generation >= config.generations:
        return True
    if config.evaluations is not None and tally.num_done >= config.evaluations:
        return True
    return search.optimizer.is_done()


def _target(config: SearchConfig, optimizer: Optimizer) -> int | None:
    """Individuals at the end, if every generation is as large as the first."""
    known = []
    if config.evaluations is not None:
        known.append(config.evaluations)
    if config.generations is not None:
        known.append(config.generations * len(optimizer.ask()))
    return min(known, default=None)
