"""From the `[fitness]` table to the fitness it names."""

from collections.abc import Sequence

from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor
from search.fitness.config import FitnessConfig, IrtConfig, MinibatchConfig, RacingConfig
from search.fitness.full import FullFitness
from search.fitness.irt import IrtFitness, IrtSettings
from search.fitness.minibatch import MinibatchFitness
from search.fitness.protocol import Fitness
from search.fitness.racing import RacingFitness, RacingSettings
from search.tasks.item import Task


def build_fitness(
    config: FitnessConfig,
    executor: Executor,
    tasks: Sequence[Task],
    weights: Sequence[float],
    seed: int,
    sources: Sequence[Manifest],
) -> Fitness:
    """tasks: the counted ones, weights: theirs; sources: each source alone, as a recipe."""
    settings = config.model_dump(exclude={"kind"})
    match config:
        case MinibatchConfig():
            return MinibatchFitness(executor, tasks, config.size, seed)
        case RacingConfig():
            return RacingFitness(executor, tasks, weights, seed, RacingSettings(**settings))
        case IrtConfig():
            return IrtFitness(executor, tasks, weights, sources, IrtSettings(**settings))
    return FullFitness(executor, tasks)
