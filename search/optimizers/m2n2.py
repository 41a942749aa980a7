"""M2N2 (2508.16204): an archive of merges that compete for items, and mate by what they lack.

Individuals are lineages (`search.genome.lineage`). Fitness shares the reward of an item among all
in the archive who earn it, sum_j s_ij / sum_k s_kj, so that rare skills survive; the first parent
is drawn by it, the second by how far it beats the first on items, sum_j max(0, s'_kj - s'_ij).
A child is the split-slerp of both with t and split uniform in [0, 1], as in the authors' code. It
enters the archive, which then drops its least fit.

Ours: with probability `mutation` a child is its first parent with the t and split of its last merge
moved a little (the authors add noise to weights, which no recipe can hold). A manifest holds a
limited number of merges: mates are tried in the order drawn, and the first whose joint lineage fits
is taken; where none does, the child is such a mutation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.genome.lineage import ROW, Lineage, Row, read_lineage, write_lineage
from search.genome.protocol import Space, Vector
from search.optimizers.generation import check_told
from search.optimizers.protocol import Scored
from search.optimizers.state import pack_state, signature, unpack_state

_KIND = "m2n2 1"
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class M2n2Settings:
    """archive: its size (about 20 in the paper); population: children per generation (the paper
    makes one at a time, which batches badly); sharing: exponent of the item's total (alpha);
    mutation, step: see the module."""

    archive: int = 20
    population: int = 8
    sharing: float = 1.0
    mutation: float = 0.2
    step: float = 0.1


@dataclass(frozen=True)
class Member:
    """An individual of the archive and its scores per item (num_items,)."""

    lineage: Lineage
    scores: Scores


class M2n2:
    """An `Optimizer` over a lineage genome of `num_models` sources, which are asked first.

    Scores without items count their objectives as items.
    """

    def __init__(
        self, space: Space, num_models: int, seed: int, settings: M2n2Settings | None = None
    ) -> None:
        self._settings = settings or M2n2Settings()
        _check_settings(self._settings, space.size, num_models)
        self._num_models = num_models
        self._max_merges = space.size // ROW
        self._signed = signature(space, num_models, seed, self._settings)
        self._rng = np.random.default_rng(seed)
        self._archive: list[Member] = []
        self._asked: list[Vector] = []
        self._is_started = False

    def ask(self) -> Sequence[Vector]:
        """The sources alone, then children of the archive."""
        if not self._asked:
            if self._is_started:
                children = [self._child() for _ in range(self._settings.population)]
            else:
                children = self._sources()
            self._asked = [write_lineage(child, self._max_merges) for child in children]
        return [x.copy() for x in self._asked]

    def tell(self, generation: Sequence[Scored]) -> None:
        """Let each into the archive in turn; whoever scored NaN or infinity stays out."""
        check_told(self._asked, generation)
        rows = [_scores(scored) for scored in generation]
        lengths = {len(row) for row in rows} | {len(m.scores) for m in self._archive}
        if len(lengths) > 1:
            raise ValueError(f"M2N2 needs the same items in every score, got {sorted(lengths)}")
        for genotype, row in zip(self._asked, rows, strict=True):
            if np.isfinite(row).all():
                self._admit(Member(read_lineage(genotype, self._num_models), row))
        self._asked = []
        self._is_started = True

    def archive(self) -> list[Vector]:
        """The genotypes that are alive, fittest first."""
        order = np.argsort(-self._fitness(), kind="stable").tolist() if self._archive else []
        return [write_lineage(self._archive[i].lineage, self._max_merges) for i in order]

    def state(self) -> bytes:
        """See `Optimizer`."""
        payload = (self._rng, self._archive, self._asked, self._is_started)
        return pack_state(_KIND, self._signed, payload)

    def restore(self, state: bytes) -> None:
        """See `Optimizer`."""
        payload: Any = unpack_state(_KIND, self._signed, state)
        self._rng, self._archive, self._asked, self._is_started = payload

    def is_done(self) -> bool:
        """Never."""
        return False

    def mean(self) -> Vector | None:
        """An archive has no centre."""
        return None

    def _sources(self) -> list[Lineage]:
        return [Lineage(self._num_models, (), node) for node in range(self._num_models)]

    def _admit(self, member: Member) -> None:
        if any(other.lineage == member.lineage for other in self._archive):
            return
        self._archive.append(member)
        if len(self._archive) > self._settings.archive:
            # The first of equals is the oldest: new blood stays.
            del self._archive[int(np.argmin(self._fitness()))]

    def _fitness(self) -> Scores:
        total: Scores = self._shared().sum(axis=1)
        return total

    def _shared(self) -> Scores:
        return share_rewards(np.stack([m.scores for m in self._archive]), self._settings.sharing)

    def _child(self) -> Lineage:
        if not self._archive:
            # Not even the sources could be scored: go on with them, as equals.
            first, second = self._rng.choice(self._num_models, 2, replace=False).tolist()
            sources = self._sources()
            return self._join(sources[first], sources[second]) or sources[first]
        shared = self._shared()
        first = int(self._rng.choice(len(shared), p=_shares(shared.sum(axis=1))))
        parent = self._archive[first].lineage
        if parent.rows and self._rng.random() < self._settings.mutation:
            return self._mutated(parent)
        for mate in self._mates(shared, first):
            child = self._join(parent, self._archive[mate].lineage)
            if child is not None:
                return child
        return self._mutated(parent)

    def _mates(self, shared: Scores, first: int) -> list[int]:
        """All others, drawn without replacement by attraction; those of none come last."""
        attraction = np.maximum(0, shared - shared[first]).sum(axis=1)
        others = [index for index in range(len(shared)) if index != first]
        # Gumbel-top-k: the order of successive draws in proportion to attraction.
        noise = self._rng.gumbel(size=len(shared))
        with np.errstate(divide="ignore"):
            keys = np.log(attraction) + noise
        return sorted(others, key=lambda index: (-keys[index], -noise[index]))

    def _join(self, parent: Lineage, mate: Lineage) -> Lineage | None:
        t, split = self._rng.random(2).tolist()
        return join_lineages(parent, mate, Row(0, 0, t, split), self._max_merges)

    def _mutated(self, parent: Lineage) -> Lineage:
        if not parent.rows:
            return parent
        last = parent.rows[-1]
        moved = np.array([last.t, last.split]) + self._settings.step * self._rng.normal(size=2)
        t, split = np.clip(moved, 0, 1).tolist()
        return replace(parent, rows=(*parent.rows[:-1], replace(last, t=t, split=split)))


def share_rewards(scores: Scores, sharing: float = 1.0) -> Scores:
    """Each reward divided by its item's total over the archive, to the power `sharing`.

    scores: (num_members, num_items); an item's scores are shifted up if any is negative.
    """
    lifted = scores - np.minimum(0, scores.min(axis=0))
    total = lifted.sum(axis=0)
    divisor = np.where(total > 0, total, 1.0) ** sharing
    shared: Scores = lifted / divisor
    return shared


def join_lineages(first: Lineage, second: Lineage, row: Row, max_merges: int) -> Lineage | None:
    """The child of two lineages, common ancestors held once; None if it has too many merges.

    `row` gives t and split; a lineage joined with itself is itself.
    """
    rows: list[Row] = []
    roots = [_append(rows, lineage) for lineage in (first, second)]
    if roots[0] == roots[1]:
        return first
    rows.append(replace(row, first=roots[0], second=roots[1]))
    if len(rows) > max_merges:
        return None
    return Lineage(first.num_models, tuple(rows), first.num_models + len(rows) - 1)


def _append(rows: list[Row], lineage: Lineage) -> int:
    """Add a lineage's merges to `rows` (in place) unless they are there; the root's new number."""
    number = list(range(lineage.num_models))
    for row in lineage.rows:
        renumbered = replace(row, first=number[row.first], second=number[row.second])
        if renumbered not in rows:
            rows.append(renumbered)
        number.append(lineage.num_models + rows.index(renumbered))
    return number[lineage.root]


def _scores(scored: Scored) -> Scores:
    values = scored.objectives if scored.items is None else scored.items
    if not np.isfinite(scored.objectives).all():
        values = np.full(np.shape(np.atleast_1d(values)), np.nan)
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _shares(fitness: Scores) -> Scores:
    total = fitness.sum()
    return fitness / total if total > 0 else np.full(len(fitness), 1 / len(fitness))


def _check_settings(settings: M2n2Settings, size: int, num_models: int) -> None:
    if size % ROW or num_models < 2:
        raise ValueError("M2N2 needs a lineage genome of at least two models")
    if settings.archive < 2 or settings.population < 1:
        raise ValueError(
            f"archive {settings.archive} must be at least 2, "
            f"population {settings.population} at least 1"
        )
    if not 0 <= settings.mutation <= 1 or settings.step <= 0:
        raise ValueError(
            f"mutation {settings.mutation} must be in [0, 1], step {settings.step} positive"
        )
