"""From a run in the store to manifests that say how they were scored and where they come from."""

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evoserve.errors import ConfigError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import parse_manifest
from evoserve.manifest.parts import EvaluationSpec, JsonValue
from evoserve.manifest.schema import Manifest
from search.config import SearchConfig
from search.executors.protocol import Executor, Job
from search.fitness.asking import is_whole
from search.fitness.validation import find_best
from search.loop import combine
from search.record import RunRecord, TaskRecord, find_record
from search.setup import build_config_optimizer
from search.store import Evaluation, Individual, Store, StoreError, by_generation
from search.tasks.interval import interval95
from search.tasks.item import Task

What = Literal["best", "validated", "mean", "front"]
NUM_FINALISTS = 5
"""So many of the highest estimates are asked in full at the end of a run."""


@dataclass(frozen=True)
class Chosen:
    """A recipe to export; position is None for the mean, which is no individual."""

    label: str
    manifest: Manifest
    generation: int
    position: int | None = None


def export_run(store: Store, name: str, what: What) -> list[tuple[str, Manifest]]:
    """(file stem, manifest) of the best or validated individual, the mean or the whole front.

    Nothing is evaluated here. Raises StoreError for an unknown or empty run and for a recipe that
    was never scored, ConfigError for a `what` that the run does not have.
    """
    run, record = find_record(store, name)
    return [
        (chosen.label, _with_evidence(store, record, chosen))
        for chosen in choose(store, run, record, what)
    ]


def score_results(
    store: Store, run: int, record: RunRecord, executor: Executor, tasks: Sequence[Task]
) -> Iterator[tuple[Chosen, Task, Evaluation]]:
    """Score what can be exported (best or front, validated and mean) on all tasks, in the order
    that scores get known. executor: one that keeps them in the store.

    First whatever the choice between candidates needs is asked, if it is not known.
    """
    individuals, config = store.individuals(run), record.config
    asked = [
        Job(parse_manifest(one.manifest), task)
        for one in _finalists(config, individuals)
        for task in tasks[: record.num_counted]
    ]
    if config.validation is not None:
        (task,) = (task for task in tasks if task.name == config.validation.task)
        bests = [find_best(generation) for generation in by_generation(individuals)]
        asked += [Job(parse_manifest(one.manifest), task) for one in bests]
    # All at once, so that workers share them and a recipe is built once; the store keeps them.
    for _ in executor.evaluate(asked):
        pass
    kinds = list_kinds(store, run, record)
    chosen = [one for kind in kinds for one in choose(store, run, record, kind)]
    found = [(one, task) for one in chosen for task in tasks]
    with closing(executor.evaluate([Job(one.manifest, task) for one, task in found])) as results:
        for index, evaluation in results:
            yield *found[index], evaluation


def choose(store: Store, run: int, record: RunRecord, what: What) -> list[Chosen]:
    """The recipes of one kind. Raises StoreError and ConfigError."""
    individuals = store.individuals(run)
    if not individuals:
        raise StoreError(f"run '{record.config.name}' has no whole generation yet")
    if what == "front":
        front = find_front(individuals)
        return [_chosen(f"front-{n:03}", one) for n, one in enumerate(front)]
    if what == "best":
        return [_chosen("best", _best(store, record, individuals))]
    if what == "validated":
        return [_chosen("validated", _validated(store, record, individuals))]
    mean = _mean(store, run, record)
    if mean is None:
        raise ConfigError(
            f"optimizer '{record.config.optimizer.name}' has no mean; export best or front"
        )
    return [Chosen("mean", mean, individuals[-1].generation)]


def find_front(individuals: Sequence[Individual]) -> list[Individual]:
    """The individuals that no other dominates, each recipe once, best in the first objective
    first; equal ones in the order they were found."""
    distinct: dict[str, Individual] = {}
    for one in individuals:
        distinct.setdefault(one.digest, one)
    pool = list(distinct.values())
    values = np.stack([one.objectives for one in pool])
    kept = []
    for index, row in enumerate(values):
        at_least = (values >= row).all(axis=1)
        better = (values > row).any(axis=1)
        if not (at_least & better).any():
            kept.append(pool[index])
    return sorted(kept, key=lambda one: -float(one.objectives[0]))


def _chosen(label: str, one: Individual) -> Chosen:
    return Chosen(label, parse_manifest(one.manifest), one.generation, one.position)


def list_kinds(store: Store, run: int, record: RunRecord) -> list[What]:
    """What can be exported of the run."""
    kinds: list[What] = []
    if record.config.combine == "separate":
        kinds.append("front")
    elif record.config.fitness.kind != "minibatch":
        kinds.append("best")
    if record.config.validation is not None:
        kinds.append("validated")
    if _mean(store, run, record) is not None:
        kinds.append("mean")
    return kinds


def _best(store: Store, record: RunRecord, individuals: Sequence[Individual]) -> Individual:
    """The highest objective among those that were asked every item, the earliest of equals."""
    config = record.config
    if config.combine == "separate":
        raise ConfigError(
            f"run '{config.name}' has {record.num_counted} objectives and no one best; "
            "export its front"
        )
    if config.fitness.kind == "minibatch":
        raise ConfigError(
            f"run '{config.name}' asked every generation other items, so that no one is its best; "
            "export its validated"
        )
    finalists = {one.digest for one in _finalists(config, individuals)}
    known = []
    for one in individuals:
        if is_whole(one.items):
            known.append((float(one.objectives[0]), one))
        elif one.digest in finalists:
            found = [store.evaluation(one.digest, task.key) for task in _counted(record)]
            means = [float(np.mean(each.scores)) for each in found if each is not None]
            if len(means) == len(found):
                known.append((float(combine(config, np.array(means))[0]), one))
    if not known:
        raise StoreError(f"run '{config.name}' has no individual yet that was asked everything")
    # max keeps the first of equals: the earliest one.
    return max(known, key=lambda pair: pair[0])[1]


def _finalists(config: SearchConfig, individuals: Sequence[Individual]) -> list[Individual]:
    """The recipes with the highest estimates, where objectives are estimates."""
    if config.fitness.kind != "irt":
        return []
    ranked = sorted(individuals, key=lambda one: -float(one.objectives[0]))
    distinct: dict[str, Individual] = {}
    for one in ranked:
        distinct.setdefault(one.digest, one)
    return list(distinct.values())[:NUM_FINALISTS]


def _validated(store: Store, record: RunRecord, individuals: Sequence[Individual]) -> Individual:
    """Of the generations' best ones that which validates best, the earliest of equals."""
    validation = record.config.validation
    if validation is None:
        raise ConfigError(f"run '{record.config.name}' has no [validation]; export best or mean")
    (key,) = (task.key for task in record.tasks if task.name == validation.task)
    known = []
    for generation in by_generation(individuals):
        one = find_best(generation)
        found = store.evaluation(one.digest, key)
        if found is not None:
            known.append((float(np.mean(found.scores)), one))
    if not known:
        raise StoreError(
            f"run '{record.config.name}' was not validated yet; let `evosearch run` go on"
        )
    return max(known, key=lambda pair: pair[0])[1]


def _counted(record: RunRecord) -> tuple[TaskRecord, ...]:
    return record.tasks[: record.num_counted]


def _mean(store: Store, run: int, record: RunRecord) -> Manifest | None:
    last = store.last_generation(run)
    genome = record.genome()
    optimizer = build_config_optimizer(record.config, genome)
    if last is not None:
        try:
            optimizer.restore(last[1])
        except ValueError as error:
            raise ConfigError(f"run '{record.config.name}' cannot be read: {error}") from None
    mean = optimizer.mean()
    return None if mean is None else genome.decode(mean)


def _with_evidence(store: Store, record: RunRecord, chosen: Chosen) -> Manifest:
    found = [(task, store.evaluation(digest(chosen.manifest), task.key)) for task in record.tasks]
    specs = tuple(_evaluation(task, known) for task, known in found if known is not None)
    if not specs:
        raise StoreError(
            f"the {chosen.label} of run '{record.config.name}' was not scored yet; let "
            "`evosearch run` come to its end"
        )
    changes = {"evaluation": specs, "provenance": _provenance(record, chosen)}
    return chosen.manifest.model_copy(update=changes)


def _evaluation(task: TaskRecord, known: Evaluation) -> EvaluationSpec:
    scores = known.scores.tolist()
    return EvaluationSpec(
        task=task.name,
        split=task.split,
        protocol=task.protocol,
        metric=task.metric,
        score=math.fsum(scores) / len(scores),
        interval=interval95(scores),
        num_items=len(scores),
        items=tuple(scores),
        task_digest=task.digest,
        outputs_digest=known.outputs,
    )


def _provenance(record: RunRecord, chosen: Chosen) -> dict[str, JsonValue]:
    config = record.config
    fields: dict[str, JsonValue] = {
        "run": config.name,
        "generation": chosen.generation,
        "optimizer": config.optimizer.name,
        "seed": config.seed,
    }
    if chosen.position is None:
        fields["individual"] = "mean"
    else:
        fields["individual"] = chosen.position
    return fields | {f"version_{name}": known for name, known in record.versions.items()}
