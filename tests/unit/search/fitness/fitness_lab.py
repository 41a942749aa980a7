"""Recipes whose scores are a table: an executor that answers from it, and generations over it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evoserve.manifest.canonical import digest
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor, Job, Results, task_key
from search.fitness.build import build_fitness
from search.fitness.config import (
    FitnessConfig,
    FullConfig,
    IrtConfig,
    MinibatchConfig,
    RacingConfig,
)
from search.fitness.protocol import Fitness, Sample
from search.genome.baselines import one_source
from search.genome.pool import Pool
from search.store import Evaluation, Individual
from search.tasks.item import Item, Metric, Task

Table = NDArray[np.float64]
WEIGHTS = (2.0, 1.0)
KINDS: dict[str, FitnessConfig] = {
    "full": FullConfig(),
    "minibatch": MinibatchConfig(kind="minibatch", size=9),
    "racing": RacingConfig(kind="racing", chunk=12, keep=0.25),
    "irt": IrtConfig(kind="irt", size=7, calibrate=2, refresh=2, dimensions=1),
    "irt, 2 dimensions": IrtConfig(kind="irt", size=7, calibrate=1),
}


def make_recipes(count: int) -> list[Manifest]:
    """So many different recipes."""
    names = [f"m{number}" for number in range(count)]
    pool = Pool("lab", {name: SourceSpec(model=name) for name in names}, dict.fromkeys(names, 2))
    return [one_source(pool, name) for name in names]


def make_tasks(counts: Sequence[int], metric: Metric = "exact_number") -> list[Task]:
    """Tasks of so many items."""
    return [
        Task(f"t{t}", "search", tuple(Item(f"{t}:{i}", "1", metric) for i in range(count)))
        for t, count in enumerate(counts)
    ]


class Answers:
    """An `Executor` over known scores (num_recipes, num_items of all tasks in a row).

    order: seed of the order in which jobs get done, None as given; asked: every job's items.
    """

    def __init__(
        self, recipes: Sequence[Manifest], tasks: Sequence[Task], table: Table, order: int | None
    ) -> None:
        prompts = [item.prompt for task in tasks for item in task.items]
        self._rows = {digest(recipe): row for recipe, row in zip(recipes, table, strict=True)}
        self._columns = {prompt: column for column, prompt in enumerate(prompts)}
        self._rng = None if order is None else np.random.default_rng(order)
        self.num_asked = 0

    @property
    def place(self) -> str:
        return "cpu+torch.float32"

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        indices = range(len(jobs)) if self._rng is None else self._rng.permutation(len(jobs))
        for index in map(int, indices):
            manifest, task = jobs[index].manifest, jobs[index].task
            row = self._rows[digest(manifest)]
            scores = np.array([row[self._columns[item.prompt]] for item in task.items])
            self.num_asked += len(scores)
            key = task_key(manifest, task, self.place)
            yield index, Evaluation(digest(manifest), key, scores, "", 0.0)

    def close(self) -> None:
        pass


class Lab:
    """Four sources and then generations of `population` recipes over one table of scores."""

    def __init__(
        self, table: Table, counts: Sequence[int], population: int, metric: Metric = "exact_number"
    ) -> None:
        self.table = table[4:]
        self.tasks = make_tasks(counts, metric)
        self.population = population
        self._all = table
        self._recipes = make_recipes(len(table))
        self.num_generations = len(self.table) // population

    def executor(self, order: int | None = None) -> Answers:
        return Answers(self._recipes, self.tasks, self._all, order)

    def build(self, config: FitnessConfig, executor: Executor) -> Fitness:
        weights = WEIGHTS[: len(self.tasks)]
        return build_fitness(config, executor, self.tasks, weights, 5, self._recipes[:4])

    def recipes(self, generation: int) -> list[Manifest]:
        start = 4 + generation * self.population
        return self._recipes[start : start + self.population]

    def learned(self, generation: int, samples: dict[int, Sample]) -> list[Individual]:
        weights = np.array(WEIGHTS[: len(self.tasks)])
        return [
            Individual(
                generation,
                position,
                np.zeros(1),
                f"d{generation}-{position}",
                "{}",
                np.array([samples[position].means @ weights / weights.sum()]),
                samples[position].items,
            )
            for position in range(self.population)
        ]

    def run(self, fitness: Fitness) -> list[dict[int, Sample]]:
        """All generations, scored and learned; every position must come once."""
        found = []
        for generation in range(self.num_generations):
            pairs = list(fitness.score(generation, self.recipes(generation)))
            samples = dict(pairs)
            assert sorted(position for position, _ in pairs) == list(range(self.population))
            fitness.learn(self.learned(generation, samples))
            found.append(samples)
        return found


def logistic_table(count: int, num_items: int, seed: int, rise: float = 1.5) -> Table:
    """Right or wrong by a two-parameter model; abilities rise from -rise to rise, row by row."""
    rng = np.random.default_rng(seed)
    ability = np.linspace(-rise, rise, count) + 0.7 * rng.normal(size=count)
    slope, offset = rng.uniform(0.5, 2.5, num_items), 1.5 * rng.normal(size=num_items)
    chance = 1 / (1 + np.exp(-(np.outer(ability, slope) + offset)))
    return (rng.random(chance.shape) < chance).astype(np.float64)
