"""Telling the generations' best ones apart by a task that no objective counts."""

from collections.abc import Sequence

import numpy as np

from evoserve.manifest.load import parse_manifest
from search.executors.protocol import Executor, evaluate_one
from search.store import Individual
from search.tasks.item import Task, TaskError


def check_validation(task: Task, counted: Sequence[Task]) -> None:
    """Raises TaskError that quotes the first question which a counted task shares."""
    for other in counted:
        asked = {item.prompt for item in other.items}
        for item in task.items:
            if item.prompt in asked:
                raise TaskError(
                    f"validation task '{task.name}' shares the question {item.prompt!r:.80} with "
                    f"the counted task '{other.name}'; give them other items"
                )


def validate_generation(executor: Executor, individuals: Sequence[Individual], task: Task) -> float:
    """The score of a generation's best individual on the task; a store remembers it.

    Raises EngineError.
    """
    best = find_best(individuals)
    return float(np.mean(evaluate_one(executor, parse_manifest(best.manifest), task).scores))


def find_best(individuals: Sequence[Individual]) -> Individual:
    """The one with the highest (first) objective, the earliest of equals."""
    return max(individuals, key=lambda one: float(one.objectives[0]))
