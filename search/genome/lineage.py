"""Lineages of M2N2 (2508.16204) as vectors: which split-slerp merges, of what, made a model.

A model is made by a list of merges, each of two earlier models; nodes 0 .. S-1 are the sources,
node S + k is the result of row k, and the last row's node is the recipe. A row is four dimensions:
first parent, second parent, t, split. Every vector is a lineage:

- a parent is rounded down and clipped to the nodes before its row;
- a row whose first parent is negative is unused: its node is that of the row before (of row 0:
  source 0);
- a row with two equal parents is that parent, for slerp of a model with itself is itself;
- rows that the recipe does not descend from are not written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.refs import expand_path
from evoserve.manifest.schema import Manifest
from search.genome.axes import Axes, Range, build_axes
from search.genome.encoded import EncodedGenome
from search.genome.pool import Pool
from search.genome.protocol import Flags, Vector

ROW = 4
MAX_MERGES = 64
UNUSED = -0.5


@dataclass(frozen=True)
class Row:
    """One merge of two nodes: `t` before the split point, 1 - t behind it (split in [0, 1])."""

    first: int
    second: int
    t: float
    split: float


@dataclass(frozen=True)
class Lineage:
    """The merges that matter, each after its parents, and the node that is the recipe.

    Node n < num_models is a source, node num_models + k is rows[k].
    """

    num_models: int
    rows: tuple[Row, ...]
    root: int


def read_lineage(vector: Vector, num_models: int) -> Lineage:
    """The lineage at a point, with its unused and unreachable rows removed."""
    kept, root = _used_rows(vector, num_models)
    number = {node: node for node in range(num_models)}
    rows: list[Row] = []
    for node, row in kept:
        number[node] = num_models + len(rows)
        rows.append(Row(number[row.first], number[row.second], row.t, row.split))
    return Lineage(num_models, tuple(rows), number[root])


def write_lineage(lineage: Lineage, max_merges: int) -> Vector:
    """The vector (max_merges * 4,) of a lineage. Raises ValueError if it has too many merges."""
    if len(lineage.rows) > max_merges:
        raise ValueError(f"{len(lineage.rows)} merges; the genome holds {max_merges}")
    table = np.zeros((max_merges, ROW))
    table[:, 0] = UNUSED
    for index, row in enumerate(lineage.rows):
        table[index] = (row.first, row.second, row.t, row.split)
    if not lineage.rows:
        table[0] = (lineage.root, lineage.root, 0.0, 0.0)
    return table.ravel()


@dataclass(frozen=True)
class LineageCodec:
    """Nested split-slerp merges of sources, named `prefix` and a number."""

    pool: Pool
    models: tuple[str, ...]
    max_merges: int
    prefix: str

    def decode(self, vector: Vector) -> Manifest:
        """One split_slerp merge per row that matters; a source alone is its own path."""
        lineage = read_lineage(vector, len(self.models))
        names = [*self.models, *(f"{self.prefix}{k}" for k in range(len(lineage.rows)))]
        merges = {
            name: MergeSpec(
                method="split_slerp",
                base=names[row.first],
                models=(names[row.second],),
                t=row.t,
                split=row.split,
            )
            for name, row in zip(names[len(self.models) :], lineage.rows, strict=True)
        }
        if merges:
            return self.pool.manifest(merges)
        source = names[lineage.root]
        return self.pool.manifest({}, [f"{source}[0:{self.pool.layers_of(source)}]"])

    def encode(self, manifest: Manifest) -> Vector:
        """The rows of the manifest's merges in their order."""
        count = len(self.models)
        number = {name: index for index, name in enumerate(self.models)}
        for index in range(len(manifest.merges)):
            number[f"{self.prefix}{index}"] = count + index
        rows = [_row(manifest.merges[name], number) for name in list(number)[count:]]
        root = count + len(rows) - 1
        if not rows:
            root = number[expand_path(manifest.path or ())[0].model]
        return write_lineage(Lineage(count, tuple(rows), root), self.max_merges)

    def is_active(self, vector: Vector) -> Flags:
        """Rows that the recipe descends from; of all others the parents, which could change that
        (the first parent alone where the row is unused)."""
        table = vector.reshape(-1, ROW)
        active = np.zeros((self.max_merges, ROW), dtype=bool)
        active[:, 0] = True
        active[:, 1] = table[:, 0] >= 0
        for node, _ in _used_rows(vector, len(self.models))[0]:
            active[node - len(self.models)] = True
        return active.ravel()


def build_lineage_genome(
    pool: Pool, models: Sequence[str], max_merges: int = 32, prefix: str = "node"
) -> EncodedGenome:
    """A genome for `M2n2`; `models` are the sources that the archive starts with.

    Raises ValueError for unknown models, fewer than two, or more merges than a manifest holds.
    """
    pool.check_known(models)
    room = MAX_MERGES - len(pool.merges)
    if len(models) < 2:
        raise ValueError(f"models: M2N2 needs at least two, got {len(models)}")
    if not 1 <= max_merges <= room:
        raise ValueError(f"max_merges {max_merges} must be in [1, {room}]")
    clash = [name for name in pool.models if name.startswith(prefix)]
    if clash:
        raise ValueError(f"prefix '{prefix}' is also the start of model '{clash[0]}'")
    axes = lineage_axes(len(models), max_merges)
    return EncodedGenome(axes, LineageCodec(pool, tuple(models), max_merges, prefix))


def lineage_axes(num_models: int, max_merges: int) -> Axes:
    """The dimensions of lineages; the start is source 0 alone."""
    names: list[str] = []
    ranges: list[Range] = []
    for index in range(max_merges):
        last = float(num_models + index - 1)
        names += [f"{what} row {index}" for what in ("first", "second", "t", "split")]
        start = UNUSED if index else 0.0
        ranges += [Range(-1.0, last, start), Range(0.0, last, 0.0), Range(), Range()]
    return build_axes(names, ranges)


def _used_rows(vector: Vector, num_models: int) -> tuple[list[tuple[int, Row]], int]:
    """(node, row) of the merges that the recipe descends from, in order; and the recipe's node.

    Nodes keep the numbers of the vector; parents that stand for another node are replaced by it.
    """
    stands_for = list(range(num_models))
    rows: dict[int, Row] = {}
    for index, values in enumerate(vector.reshape(-1, ROW).tolist()):
        node = num_models + index
        row = _parse_row(values, stands_for)
        if row is None:
            stands_for.append(stands_for[-1] if index else 0)
        elif row.first == row.second:
            stands_for.append(row.first)
        else:
            rows[node] = row
            stands_for.append(node)
    root = stands_for[-1]
    needed = {root}
    for node in sorted(rows, reverse=True):
        if node in needed:
            needed.update((rows[node].first, rows[node].second))
    return [(node, rows[node]) for node in sorted(rows) if node in needed], root


def _parse_row(values: Sequence[float], stands_for: Sequence[int]) -> Row | None:
    first, second, t, split = values
    if first < 0:
        return None
    last = len(stands_for) - 1
    a, b = (stands_for[min(int(parent), last)] for parent in (first, max(second, 0.0)))
    return Row(a, b, t, split)


def _row(spec: MergeSpec, number: dict[str, int]) -> Row:
    if spec.base is None or not isinstance(spec.t, float) or not isinstance(spec.split, float):
        raise KeyError("t and split of a split_slerp merge")
    return Row(number[spec.base], number[spec.inputs[0]], spec.t, spec.split)
