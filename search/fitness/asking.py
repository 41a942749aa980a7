"""Asking some of the items: rows over all counted tasks, NaN where nothing was asked."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor, Job
from search.fitness.protocol import Sample
from search.tasks.item import Task

Row = NDArray[np.float64]
Indices = NDArray[np.int64]
Rows = Generator[tuple[int, Row], None, None]


def ask_items(
    executor: Executor,
    tasks: Sequence[Task],
    manifests: Mapping[int, Manifest],
    chosen: Sequence[Indices],
) -> Rows:
    """(key, row) of every recipe as it is complete; chosen: ascending items of each task.

    A task that is asked whole is asked as it is, so that its evaluation is known as the task's.
    Raises EngineError.
    """
    parts = [
        (number, task if len(wanted) == len(task.items) else task.subset(wanted.tolist()))
        for number, (task, wanted) in enumerate(zip(tasks, chosen, strict=True))
        if len(wanted)
    ]
    offsets = first_items(tasks)
    keys = list(manifests)
    jobs = [Job(manifests[key], part) for key in keys for _, part in parts]
    rows: dict[int, Row] = {}
    open_parts = dict.fromkeys(keys, len(parts))
    with closing(executor.evaluate(jobs)) as results:
        for index, evaluation in results:
            key, (number, _) = keys[index // len(parts)], parts[index % len(parts)]
            row = rows.setdefault(key, np.full(offsets[-1], np.nan))
            row[offsets[number] + chosen[number]] = evaluation.scores
            open_parts[key] -= 1
            if not open_parts[key]:
                yield key, rows.pop(key)


def first_items(tasks: Sequence[Task]) -> Indices:
    """Where each task begins in a row, and the row's length (num_tasks + 1,)."""
    return np.cumsum([0, *(len(task.items) for task in tasks)])


def split_row(tasks: Sequence[Task], row: Row) -> list[Row]:
    """The row's part of each task."""
    return np.split(row, first_items(tasks)[1:-1])


def sample_asked(tasks: Sequence[Task], row: Row) -> Sample:
    """A sample whose means are those of the items asked; every task must have been asked."""
    parts = split_row(tasks, row)
    means = [float(np.mean(part[~np.isnan(part)])) for part in parts]
    return Sample(row, np.array(means))


def is_whole(row: Row) -> bool:
    """Was every item asked?"""
    return not bool(np.isnan(row).any())
