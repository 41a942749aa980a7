"""Estimated fitness after MERGE3 (2502.10436): a few anchor items and an item response model.

The model is calibrated on whole rows: the sources alone and the first generations. From then on
candidates are asked the anchors, and a task's mean is what they scored on those and are predicted
to score on the rest (p-IRT of 2402.14992). Of every `refresh`-th generation the best estimate is
asked in full, which corrects it and teaches the model.

Unlike MERGE3, whose merged ability is a combination of the sources' abilities, an ability is free
(MAP under a standard normal prior), and items are refitted as whole rows come in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evoserve.manifest.schema import Manifest
from search.executors.protocol import Executor
from search.fitness.asking import (
    Indices,
    Row,
    Rows,
    ask_items,
    is_whole,
    sample_asked,
    split_row,
)
from search.fitness.item_model import ItemModel, choose_anchors, fit_items
from search.fitness.protocol import Sample, Samples
from search.store import Individual
from search.tasks.item import Task


@dataclass(frozen=True)
class IrtSettings:
    """See `search.fitness.config.IrtConfig`."""

    size: int
    calibrate: int = 2
    refresh: int = 1
    dimensions: int = 2


class IrtFitness:
    """Anchors for most, everything for a few; for one objective, the weighted mean of the tasks."""

    def __init__(
        self,
        executor: Executor,
        tasks: Sequence[Task],
        weights: Sequence[float],
        sources: Sequence[Manifest],
        settings: IrtSettings,
    ) -> None:
        """sources: each source alone, as a recipe."""
        self._executor = executor
        self._tasks = tuple(tasks)
        self._weights = np.array(weights, dtype=np.float64) / sum(weights)
        self._sources = tuple(sources)
        self._settings = settings
        self._counts = [len(task.items) for task in self._tasks]
        self._known: list[Row] = []
        self._of_sources: list[Row] | None = None
        self._fitted: tuple[ItemModel, list[Indices]] | None = None

    def score(self, generation: int, manifests: Sequence[Manifest]) -> Samples:
        """In full while calibrating, then by anchors."""
        named = dict(enumerate(manifests))
        settings = self._settings
        if generation < settings.calibrate or settings.size >= max(self._counts):
            for position, row in self._ask_all(named):
                yield position, sample_asked(self._tasks, row)
            return
        model, anchors = self._calibrated()
        best: tuple[float, int, Sample] | None = None
        is_refresh = (generation - settings.calibrate) % settings.refresh == 0
        for position, row in ask_items(self._executor, self._tasks, named, anchors):
            entry = self._estimate(model, position, row)
            if not is_refresh:
                yield position, entry[2]
            elif best is None:
                best = entry
            else:
                # The best so far is held back; of equals the earlier position.
                best, other = (entry, best) if entry[:2] > best[:2] else (best, entry)
                yield -other[1], other[2]
        if best is not None:
            yield self._complete(-best[1], manifests[-best[1]], best[2].items, anchors)

    def learn(self, individuals: Sequence[Individual]) -> None:
        """Keep whole rows; the model is fitted again when it is next needed."""
        whole = [one.items for one in individuals if is_whole(one.items)]
        if whole:
            self._known.extend(whole)
            self._fitted = None

    def _calibrated(self) -> tuple[ItemModel, list[Indices]]:
        if self._of_sources is None:
            found = dict(self._ask_all(dict(enumerate(self._sources))))
            self._of_sources = [found[number] for number in range(len(self._sources))]
        if self._fitted is None:
            responses = np.stack([*self._of_sources, *self._known])
            model, abilities = fit_items(responses, self._settings.dimensions)
            anchors = choose_anchors(model, abilities, self._counts, self._settings.size)
            self._fitted = model, anchors
        return self._fitted

    def _ask_all(self, named: Mapping[int, Manifest]) -> Rows:
        everything = [np.arange(count) for count in self._counts]
        return ask_items(self._executor, self._tasks, named, everything)

    def _estimate(self, model: ItemModel, position: int, row: Row) -> tuple[float, int, Sample]:
        """(objective, -position, sample): what the best is found by, and what it is."""
        chance = model.probabilities(model.abilities(row[None]))[0]
        filled = np.where(np.isnan(row), chance, row)
        means = np.array([float(np.mean(part)) for part in split_row(self._tasks, filled)])
        return float(self._weights @ means), -position, Sample(row, means)

    def _complete(
        self, position: int, manifest: Manifest, row: Row, anchors: Sequence[Indices]
    ) -> tuple[int, Sample]:
        """The sample after the items that are left were asked too."""
        rest = [
            np.setdiff1d(np.arange(count), asked)
            for count, asked in zip(self._counts, anchors, strict=True)
        ]
        for _, answer in ask_items(self._executor, self._tasks, {position: manifest}, rest):
            row = np.where(np.isnan(row), answer, row)
        return position, sample_asked(self._tasks, row)
