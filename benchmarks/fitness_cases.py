"""The mini zoo's searches that `benchmarks.fitness` records and replays."""

import tomllib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evoserve.manifest.canonical import digest
from evoserve.manifest.load import dump_manifest
from evoserve.manifest.schema import Manifest
from search.config import SearchConfig, parse_config
from search.evaluate import Evaluator
from search.executors.protocol import Executor, Job, Results, evaluate_one, task_key
from search.fitness.build import build_fitness
from search.fitness.protocol import Fitness, Sample
from search.genome.baselines import one_source
from search.opened import open_sources
from search.optimizers.protocol import Scored
from search.setup import (
    build_config_optimizer,
    build_genome,
    build_pool,
    build_settings,
    build_source_locator,
    build_tasks,
)
from search.store import Evaluation, Individual
from search.tasks.item import Task

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "models/searches"
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Run:
    """A search as it went: generations of individuals, and items asked in all."""

    generations: list[list[Individual]]
    num_asked: int

    @property
    def individuals(self) -> list[Individual]:
        """All of them, in order."""
        return [one for generation in self.generations for one in generation]


def load_case(seed: int, num_items: int, num_generations: int) -> SearchConfig:
    """models/searches/mini-ps.toml with another seed, so many items and generations.

    Two more tasks: `validation` for what needs one, and the example's own held-out test.
    """
    document = tomllib.loads((FOLDER / "mini-ps.toml").read_text(encoding="utf-8"))
    counted, test = document["tasks"]
    counted["count"] = num_items
    # A generator's items are drawn in a row: the tail is not among the first.
    validation = {**counted, "name": "validation", "count": num_items + 100}
    validation["items"] = [num_items, num_items + 100]
    del document["evaluations"]
    changes: dict[str, Any] = {
        "seed": seed,
        "generations": num_generations,
        "tasks": [counted, validation, test],
    }
    return parse_config({**document, **changes})


class Bench:
    """The case's sources on one evaluator, and what was asked of it so far."""

    def __init__(self, config: SearchConfig) -> None:
        """Opens the sources and starts the engine."""
        self.config = config
        tasks = build_tasks(config, FOLDER)
        self.task = tasks.counted[0]
        self.validation, self.test = tasks.held_out
        sources = open_sources(config.sources, build_source_locator(config, FOLDER))
        pool = build_pool(config, sources.specs, sources.num_layers)
        self.genome = build_genome(config, pool)
        self.sources = [one_source(pool, name) for name in config.sources]
        self.recorder = Recorder(Evaluator(sources, build_settings(config, FOLDER)))

    def score(self, manifest: Manifest, task: Task) -> float:
        """The mean score of one recipe."""
        return float(evaluate_one(self.recorder, manifest, task).scores.mean())

    def fitness(self, executor: Executor, config: SearchConfig) -> Fitness:
        """That of the config, on the counted task."""
        return build_fitness(
            config.fitness, executor, [self.task], [1.0], config.seed, self.sources
        )

    def search(self, config: SearchConfig) -> Run:
        """Ask, score, tell and learn, as the loop does."""
        optimizer = build_config_optimizer(config, self.genome)
        counter = Counter(self.recorder)
        fitness = self.fitness(counter, config)
        generations = []
        for number in range(config.generations or 0):
            genotypes = list(optimizer.ask())
            manifests = [self.genome.decode(genotype) for genotype in genotypes]
            samples = dict(fitness.score(number, manifests))
            generations.append(individuals(number, genotypes, manifests, samples))
            optimizer.tell(
                [Scored(one.genotype, one.objectives, one.items) for one in generations[-1]]
            )
            fitness.learn(generations[-1])
        return Run(generations, counter.num_asked)


class Recorder:
    """An executor that computes an item of a recipe once, however tasks are cut."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._known: dict[tuple[str, str], float] = {}

    @property
    def place(self) -> str:
        """That of the executor behind it."""
        return self._executor.place

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        """The items that are not known are asked, as one task per recipe and call."""
        wanted = []
        for job in jobs:
            name = digest(job.manifest)
            missing = [
                index
                for index, item in enumerate(job.task.items)
                if (name, item.prompt) not in self._known
            ]
            if missing:
                wanted.append(Job(job.manifest, job.task.subset(missing)))
        with closing(self._executor.evaluate(wanted)) as results:
            for index, evaluation in results:
                for item, score in zip(wanted[index].task.items, evaluation.scores, strict=True):
                    self._known[digest(wanted[index].manifest), item.prompt] = float(score)
        for index, job in enumerate(jobs):
            yield index, self._known_evaluation(job)

    def close(self) -> None:
        """Close the executor behind it."""
        self._executor.close()

    def _known_evaluation(self, job: Job) -> Evaluation:
        name = digest(job.manifest)
        scores = np.array([self._known[name, item.prompt] for item in job.task.items])
        return Evaluation(name, task_key(job.manifest, job.task, self.place), scores, "", 0.0)


class Counter:
    """An executor that counts the items it passes on."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.num_asked = 0

    @property
    def place(self) -> str:
        """That of the executor behind it."""
        return self._executor.place

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        """As the executor behind it answers."""
        self.num_asked += sum(len(job.task.items) for job in jobs)
        yield from self._executor.evaluate(jobs)

    def close(self) -> None:
        """The executor behind it has an owner of its own."""


def individuals(
    number: int,
    genotypes: Sequence[Scores],
    manifests: Sequence[Manifest],
    samples: dict[int, Sample],
) -> list[Individual]:
    """A generation as the store would hold it; of one task, so its mean is the objective."""
    return [
        Individual(
            number,
            position,
            genotypes[position],
            digest(manifests[position]),
            dump_manifest(manifests[position]),
            samples[position].means,
            samples[position].items,
        )
        for position in range(len(genotypes))
    ]
