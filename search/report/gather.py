"""From a run in the store to the data of its page; nothing is evaluated here."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from evoserve.errors import ManifestError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import parse_manifest
from evoserve.manifest.methods import TRAITS
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.refs import expand_path
from evoserve.manifest.schema import Manifest
from evoserve.model.scaling import hop_scales
from search.export import What, choose, find_front, list_kinds
from search.fitness.validation import find_best
from search.optimizers.nsga2 import hypervolume
from search.record import RunRecord, TaskRecord, current_versions, find_record
from search.report.baselines import list_baselines
from search.report.data import FrontPicture, HeatMap, Part, PathPicture, Report, ScoreMap, Series
from search.report.data import Table as DataTable
from search.store import Individual, Store, StoreError, by_generation
from search.tasks.interval import format_accuracy

MAX_GENERATION_ROWS = 12
MAX_FRONT_ROWS = 12
Named = Sequence[tuple[str, Manifest]]


def gather_report(store: Store, name: str) -> Report:
    """Everything that the store knows of a run. Raises StoreError for an unknown or empty run."""
    run, record = find_record(store, name)
    individuals = store.individuals(run)
    if not individuals:
        raise StoreError(f"run '{name}' has no whole generation yet; there is nothing to draw")
    chosen, note = _results(store, run, record)
    generations = by_generation(individuals)
    recipes = [*list_baselines(record), *chosen]
    # Scores are looked up for results and generation bests alike; the table shows results only.
    shown = [*recipes, *_generation_bests(generations)]
    tasks = record.tasks
    parts: list[Part] = [_intervals(store, tasks, recipes), *_series(record, generations)]
    if record.config.combine == "separate":
        parts.append(_front(_objectives(record), individuals, generations))
    for label, manifest in chosen[:2]:
        parts += _recipe_parts(label, manifest, record.pool().layers_of)
    parts += [each for task in tasks if (each := _score_map(store, task, shown)) is not None]
    config = record.config
    words = (
        f"{config.description} {config.optimizer.name}, {config.genome.kind}, "
        f"{len(generations)} generations, {len(individuals)} individuals.{note}"
    )
    return Report(name, words.strip(), tuple(parts))


def _results(store: Store, run: int, record: RunRecord) -> tuple[list[tuple[str, Manifest]], str]:
    if record.config.combine == "separate":
        front = choose(store, run, record, "front")[:MAX_FRONT_ROWS]
        return [(each.label, each.manifest) for each in front], ""
    now = current_versions(record.config.optimizer.name)
    changed = [key for key in now if record.versions.get(key) != now[key]]
    if changed:
        kind: What = "best" if record.config.fitness.kind != "minibatch" else "validated"
        note = f" No mean: the run was begun with another version of {', '.join(changed)}."
        return [(kind, choose(store, run, record, kind)[0].manifest)], note
    kinds = list_kinds(store, run, record)
    return [(kind, choose(store, run, record, kind)[0].manifest) for kind in kinds], ""


def _objectives(record: RunRecord) -> tuple[str, ...]:
    names = tuple(each.task for each in record.config.objectives)
    return names if record.config.combine == "separate" else ("objective",)


def _series(record: RunRecord, generations: Sequence[Sequence[Individual]]) -> list[Series]:
    found = []
    for index, name in enumerate(_objectives(record)):
        rows = [[float(one.objectives[index]) for one in each] for each in generations]
        rows = [[v for v in row if math.isfinite(v)] or [math.nan] for row in rows]
        best = [max(row) for row in rows]
        so_far = np.fmax.accumulate(best).tolist()
        means = [math.fsum(row) / len(row) for row in rows]
        worst = tuple(min(row) for row in rows)
        found.append(Series(name, tuple(so_far), tuple(best), tuple(means), worst))
    return found


def _front(
    names: tuple[str, ...],
    individuals: Sequence[Individual],
    generations: Sequence[Sequence[Individual]],
) -> FrontPicture:
    kept = {(one.generation, one.position) for one in find_front(individuals)}
    values = np.stack([one.objectives for one in individuals])
    known = values[np.isfinite(values).all(axis=1)]
    nadir = known.min(axis=0) if len(known) else np.zeros(len(names))
    volumes, seen = [], np.empty((0, len(names)))
    for each in generations:
        new = np.stack([one.objectives for one in each])
        seen = np.concatenate([seen, new[np.isfinite(new).all(axis=1)]])
        volumes.append(hypervolume(seen, nadir))
    on = tuple(n for n, i in enumerate(individuals) if (i.generation, i.position) in kept)
    points = tuple(tuple(row) for row in values.tolist())
    return FrontPicture(names, points, on, tuple(volumes))


def _recipe_parts(label: str, manifest: Manifest, layers_of: Callable[[str], int]) -> list[Part]:
    parts: list[Part] = []
    for name, merge in manifest.merges.items():
        parts += _heat_maps(f"{label}, {name} ({merge.method})", merge)
    if manifest.path is not None:
        refs = expand_path(manifest.path)
        try:
            scales = hop_scales(manifest.scaling, refs, layers_of)
        except (ManifestError, ValueError):
            scales = (math.nan,) * len(refs)
        steps = tuple((r.model, r.layer, s) for r, s in zip(refs, scales, strict=True))
        parts.append(PathPicture(f"Path of the {label}", steps))
    return parts


def _heat_maps(label: str, merge: MergeSpec) -> list[HeatMap]:
    reads, found = TRAITS[merge.method].coefficients, []
    groups = range(len(merge.groups))
    for field in ("weights", "densities", "gammas", "epsilons"):
        if field in reads:
            rows = tuple(
                tuple(merge.coefficients(model, g)[field] for model in merge.inputs) for g in groups
            )
            found.append(HeatMap(f"{field} of {label}", merge.groups, merge.inputs, rows))
    shared = tuple(key for key in ("t", "split") if key in reads)
    if shared:
        first = merge.inputs[0]
        rows = tuple(
            tuple(merge.coefficients(first, g).get(key, math.nan) for key in shared) for g in groups
        )
        found.append(HeatMap(f"t and split of {label}", merge.groups, shared, rows))
    return found


def _generation_bests(generations: Sequence[Sequence[Individual]]) -> list[tuple[str, Manifest]]:
    step = max(1, -(-len(generations) // MAX_GENERATION_ROWS))
    best = [find_best(each) for each in generations[::step]]
    return [(f"generation {one.generation}", parse_manifest(one.manifest)) for one in best]


def _score_map(store: Store, task: TaskRecord, recipes: Named) -> ScoreMap | None:
    known = [(n, store.evaluation(digest(manifest), task.key)) for n, manifest in recipes]
    rows = [(n, tuple(found.scores.tolist())) for n, found in known if found is not None]
    if not rows:
        return None
    names, scores = zip(*rows, strict=True)
    return ScoreMap(f"Who solves what: {task.name} ({task.split})", names, scores)


def _intervals(store: Store, tasks: Sequence[TaskRecord], recipes: Named) -> DataTable:
    rows = []
    for name, manifest in recipes:
        cells = [name]
        for task in tasks:
            found = store.evaluation(digest(manifest), task.key)
            scores = [] if found is None else found.scores[np.isfinite(found.scores)].tolist()
            cells.append(format_accuracy(scores) if scores else "not scored")
        rows.append(tuple(cells))
    head = ("recipe", *(f"{task.name} ({task.split})" for task in tasks))
    return DataTable("Scores with 95% intervals", head, tuple(rows))
