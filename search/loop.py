"""The search itself: ask, evaluate, tell, save; a killed run goes on as if nothing had happened."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evoserve.errors import ConfigError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import dump_manifest
from search.config import SearchConfig
from search.fitness.protocol import Fitness
from search.genome.encoded import EncodedGenome
from search.optimizers.protocol import Optimizer, Scored
from search.progress import Reporter, Tally
from search.store import Individual, Store, by_generation


class Stopped(Exception):
    """The user asked to stop; everything evaluated so far is in the store."""


@dataclass(frozen=True, eq=False)
class Search:
    """A search that is ready to run; validate: what to score a saved generation by, if anything."""

    config: SearchConfig
    genome: EncodedGenome
    optimizer: Optimizer
    fitness: Fitness
    validate: Callable[[Sequence[Individual]], float] | None = None


@dataclass(frozen=True, eq=False)
class Desk:
    """Where a search runs: store and run, who is told; should_stop is asked after every
    individual."""

    store: Store
    run: int
    reporter: Reporter
    should_stop: Callable[[], bool]


def run_search(search: Search, desk: Desk) -> None:
    """Go on from the store's last whole generation until the budget or the optimizer ends it.

    Every generation is saved in one transaction with the optimizer's state after it. Raises
    Stopped, ConfigError for a state of other library versions, and EngineError.
    """
    tally = _resume(search, desk)
    while not _is_over(search, tally):
        start = time.monotonic()
        individuals = _run_generation(search, desk, tally)
        desk.store.save_generation(
            desk.run, search.optimizer.state(), individuals, time.monotonic() - start
        )
        search.fitness.learn(individuals)
        desk.reporter.generation(tally)
        if search.validate is not None:
            score = search.validate(individuals)
            desk.reporter.note(f"generation {tally.generation}: validation {score:.3f}")
        tally.next_generation(tally.generation + 1)


def combine(config: SearchConfig, means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The objectives (num_objectives,) that mean scores (one per counted task) make."""
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
    individuals = desk.store.individuals(desk.run)
    for generation in by_generation(individuals):
        search.fitness.learn(generation)
    for individual in individuals:
        tally.num_done += 1
        tally.raise_best(individual.objectives.tolist())
    tally.next_generation(number + 1)
    desk.reporter.note(f"resumed after generation {number}, {tally.num_done} individuals")
    return tally


def _run_generation(search: Search, desk: Desk, tally: Tally) -> list[Individual]:
    genotypes = search.optimizer.ask()
    manifests = [search.genome.decode(genotype) for genotype in genotypes]
    found: dict[int, Individual] = {}
    if desk.should_stop():
        raise Stopped
    with closing(search.fitness.score(tally.generation, manifests)) as samples:
        for position, sample in samples:
            found[position] = Individual(
                tally.generation,
                position,
                genotypes[position],
                digest(manifests[position]),
                dump_manifest(manifests[position]),
                combine(search.config, sample.means),
                sample.items,
            )
            tally.add(found[position].objectives.tolist())
            desk.reporter.individual(tally)
            if desk.should_stop():
                raise Stopped
    individuals = [found[position] for position in range(len(genotypes))]
    search.optimizer.tell([Scored(one.genotype, one.objectives, one.items) for one in individuals])
    return individuals


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
