"""How a vector holds the scales of a path's hops: per pair of layers, per slot, or a network.

Each codec reads and writes the part of the genotype that is its own; `body` and `path` are those
of `Slots`. Every scale starts at 1. Only what the path uses is written to the manifest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np

from evoserve.manifest.check import EMBED_HOP
from evoserve.manifest.parts import NetworkScaling, ScalingSpec
from evoserve.manifest.refs import LayerRef
from search.genome.axes import Axes, Range, build_axes
from search.genome.protocol import Flags, Vector
from search.genome.slots import Slots

Target = Literal["mlp_output", "hidden_state"]
ScaleKind = Literal["matrix", "per_hop", "network", "none"]

SCALE_RANGE = Range(0.0, 2.0, 1.0, 0.1)
"""W starts at 1 with the indicators' step; no source states its bounds or step."""
NETWORK_RANGE = Range(-4.0, 4.0, 0.0, 0.1)
"""All weights of pi_theta start at 0, which is W = 1; ours, no source states them."""


class ScaleCodec(Protocol):
    """Between a part of the genotype and a manifest's scaling."""

    @property
    def axes(self) -> Axes:
        """Its dimensions."""
        ...

    def read(self, part: Vector, body: Sequence[int], path: Sequence[int]) -> ScalingSpec:
        """The scaling of a path."""
        ...

    def write(
        self, scaling: ScalingSpec, body: Sequence[int], path: Sequence[int], part: Vector
    ) -> None:
        """Put the scales of a path into `part` (in place). Raises KeyError for another form."""
        ...

    def is_active(self, body: Sequence[int], path: Sequence[int]) -> Flags:
        """Which of its dimensions the path uses."""
        ...


@dataclass(frozen=True)
class NoScales:
    """Every hop at 1."""

    axes: Axes
    target: Target

    def read(self, part: Vector, body: Sequence[int], path: Sequence[int]) -> ScalingSpec:  # noqa: ARG002
        """Nothing is scaled."""
        return ScalingSpec(target=self.target)

    def write(
        self, scaling: ScalingSpec, body: Sequence[int], path: Sequence[int], part: Vector
    ) -> None:
        """There is nothing to write."""

    def is_active(self, body: Sequence[int], path: Sequence[int]) -> Flags:  # noqa: ARG002
        """There are no dimensions."""
        return np.zeros(0, dtype=bool)


@dataclass(frozen=True)
class MatrixScales:
    """W (M x M), row i, column j: the input that layer j receives from layer i; then, last, the
    scale of the embedding (hop 0), which the paper's W lacks and the released 10B model has."""

    axes: Axes
    target: Target
    layers: tuple[LayerRef, ...]

    def read(self, part: Vector, body: Sequence[int], path: Sequence[int]) -> ScalingSpec:  # noqa: ARG002
        """The entries on the path, each once, in order of their first hop."""
        entries = tuple(
            (source, target, float(part[index]))
            for (source, target), index in self._entries(path).items()
        )
        return ScalingSpec(target=self.target, matrix=entries)

    def write(
        self,
        scaling: ScalingSpec,
        body: Sequence[int],  # noqa: ARG002
        path: Sequence[int],
        part: Vector,
    ) -> None:
        """Entries off the path stay as they are."""
        entries = self._entries(path)
        for source, target, value in scaling.matrix or ():
            part[entries[source, target]] = value

    def is_active(self, body: Sequence[int], path: Sequence[int]) -> Flags:  # noqa: ARG002
        """Entries on the path."""
        active = np.zeros(self.axes.size, dtype=bool)
        active[list(self._entries(path).values())] = True
        return active

    def _entries(self, path: Sequence[int]) -> dict[tuple[str, str], int]:
        """(from, to) of every hop, and its dimension."""
        count = len(self.layers)
        entries = {(EMBED_HOP, str(self.layers[path[0]])): count * count}
        for source, target in pairwise(path):
            pair = (str(self.layers[source]), str(self.layers[target]))
            entries[pair] = source * count + target
        return entries


@dataclass(frozen=True)
class HopScales:
    """One scale per slot, that of the hop into it (T), then one for the last hop."""

    axes: Axes
    target: Target

    def read(self, part: Vector, body: Sequence[int], path: Sequence[int]) -> ScalingSpec:  # noqa: ARG002
        """One number per hop."""
        return ScalingSpec(target=self.target, per_hop=tuple(part[[*body, -1]].tolist()))

    def write(
        self,
        scaling: ScalingSpec,
        body: Sequence[int],
        path: Sequence[int],  # noqa: ARG002
        part: Vector,
    ) -> None:
        """Slots off the path stay as they are."""
        if scaling.per_hop is None or len(scaling.per_hop) != len(body) + 1:
            raise KeyError("scaling.per_hop")
        part[[*body, -1]] = scaling.per_hop

    def is_active(self, body: Sequence[int], path: Sequence[int]) -> Flags:  # noqa: ARG002
        """Slots on the path, and the last hop."""
        active = np.zeros(self.axes.size, dtype=bool)
        active[[*body, -1]] = True
        return active


@dataclass(frozen=True)
class NetworkScales:
    """pi_theta(i, j, t): `hidden` tanh units of 3 inputs and a bias, then one linear output.

    Dimensions: first weights (hidden, 3), first biases (hidden,), output weights, output bias.
    """

    axes: Axes
    target: Target
    models: tuple[str, ...]
    hidden: int

    def read(self, part: Vector, body: Sequence[int], path: Sequence[int]) -> ScalingSpec:  # noqa: ARG002
        """The network's weights."""
        h = self.hidden
        first, bias, out, offset = np.split(part, [3 * h, 4 * h, 5 * h])
        rows = tuple(tuple(row) for row in first.reshape(h, 3).tolist())
        network = NetworkScaling(
            pool=self.models,
            weights=(rows, (tuple(out.tolist()),)),
            biases=(tuple(bias.tolist()), tuple(offset.tolist())),
        )
        return ScalingSpec(target=self.target, network=network)

    def write(
        self,
        scaling: ScalingSpec,
        body: Sequence[int],  # noqa: ARG002
        path: Sequence[int],  # noqa: ARG002
        part: Vector,
    ) -> None:
        """All weights."""
        if scaling.network is None:
            raise KeyError("scaling.network")
        layers = zip(scaling.network.weights, scaling.network.biases, strict=True)
        flat = [np.concatenate([np.ravel(matrix), bias]) for matrix, bias in layers]
        values = np.concatenate(flat)
        if len(values) != len(part):
            raise KeyError("scaling.network of this size")
        part[:] = values

    def is_active(self, body: Sequence[int], path: Sequence[int]) -> Flags:  # noqa: ARG002
        """The whole network."""
        return np.ones(self.axes.size, dtype=bool)


def build_scales(
    kind: ScaleKind, slots: Slots, target: Target, scale: Range | None, hidden: int
) -> ScaleCodec:
    """The codec of one kind; `scale` replaces `SCALE_RANGE` (or `NETWORK_RANGE`)."""
    if kind == "none":
        return NoScales(build_axes([], []), target)
    if kind == "network":
        return _network(slots, target, scale or NETWORK_RANGE, hidden)
    if kind == "per_hop":
        names = [f"scale slot {t} {slots.layers[slots.layer(t)]}" for t in range(slots.count)]
        names.append(f"scale end {slots.layers[slots.last]}")
        return HopScales(_axes(names, scale or SCALE_RANGE), target)
    if kind == "matrix":
        names = [f"scale {i}->{j}" for i in slots.layers for j in slots.layers]
        names.append(f"scale {EMBED_HOP}->{slots.layers[0]}")
        return MatrixScales(_axes(names, scale or SCALE_RANGE), target, slots.layers)
    raise ValueError(f"scales '{kind}': use matrix, per_hop, network or none")


def _network(slots: Slots, target: Target, scale: Range, hidden: int) -> NetworkScales:
    if hidden < 1:
        raise ValueError(f"hidden {hidden}: the scaling network needs at least one unit")
    units = range(hidden)
    names = [f"network hidden {u} input {i}" for u in units for i in ("i", "j", "t")]
    names += [f"network hidden {u} bias" for u in units]
    names += [f"network output {u}" for u in units] + ["network output bias"]
    models = tuple(dict.fromkeys(ref.model for ref in slots.layers))
    return NetworkScales(_axes(names, scale), target, models, hidden)


def _axes(names: Sequence[str], scale: Range) -> Axes:
    return build_axes(names, [scale] * len(names))
