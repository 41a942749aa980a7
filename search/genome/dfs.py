"""Data-flow-space genomes: which layers a token passes, in which order, and at what scale.

Paper 2403.13187, section 3.2; the path is read by `Slots`, the scales by a `ScaleCodec`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evoserve.manifest.parts import ScalingSpec
from evoserve.manifest.refs import MAX_PATH_STEPS, LayerRef, expand_path, format_path
from evoserve.manifest.schema import Manifest
from search.genome.axes import Axes, Range, build_axes, concat_axes
from search.genome.encoded import EncodedGenome
from search.genome.pool import Pool
from search.genome.protocol import Flags, Vector
from search.genome.scales import ScaleCodec, ScaleKind, Target, build_scales
from search.genome.slots import Slots, repeat_layers

INDICATOR_BOUND = 1.0


@dataclass(frozen=True)
class DfsSettings:
    """What paths are searched.

    models: A first, which gives tokenizer, embedding, final norm and head; repeats: r.
    scales: `matrix` is the paper's W, `network` its pi_theta; hidden: that network's width.
    scale: range of the scales (or of the network's weights).
    max_hops: longest path; longer ones are cut, see `Slots`.
    indicator_sigma: EvoJAX's default 0.1, which no source states for the paper.
    other_start: where the indicators outside A's first pass start, in sigmas: the paper's 0 turns
    half of these slots on at first, -2 one in 44.
    """

    models: tuple[str, ...]
    repeats: int = 3
    scales: ScaleKind = "matrix"
    target: Target = "mlp_output"
    scale: Range | None = None
    hidden: int = 8
    max_hops: int | None = None
    indicator_sigma: float = 0.1
    other_start: float = 0.0


@dataclass(frozen=True)
class PathCodec:
    """Between a vector (indicators, then scales) and a path with its scaling."""

    axes: Axes
    slots: Slots
    scales: ScaleCodec

    def read(self, vector: Vector) -> tuple[list[LayerRef], ScalingSpec]:
        """The path and scaling at a point."""
        body, path = self._steps(vector)
        layers = [self.slots.layers[index] for index in path]
        return layers, self.scales.read(vector[self.slots.count :], body, path)

    def write(self, path: Sequence[LayerRef], scaling: ScalingSpec, vector: Vector) -> None:
        """Set `vector` (in place). Raises ValueError or KeyError if the path is not of the pool."""
        position = {ref: index for index, ref in enumerate(self.slots.layers)}
        steps = [position[ref] for ref in path]
        is_on = self.slots.find(steps)
        vector[: self.slots.count] = np.where(is_on, INDICATOR_BOUND, -INDICATOR_BOUND)
        part = vector[self.slots.count :]
        self.scales.write(scaling, self.slots.body(is_on), steps, part)

    def is_active(self, vector: Vector) -> Flags:
        """Indicators that change the path, and the scales of its hops."""
        body, path = self._steps(vector)
        indicators = self.slots.is_active(vector[: self.slots.count] > 0)
        return np.concatenate([indicators, self.scales.is_active(body, path)])

    def _steps(self, vector: Vector) -> tuple[list[int], list[int]]:
        body = self.slots.body(vector[: self.slots.count] > 0)
        return body, self.slots.path(body)


@dataclass(frozen=True)
class DfsCodec:
    """The recipe that is one path over the pool."""

    pool: Pool
    path: PathCodec

    def decode(self, vector: Vector) -> Manifest:
        """The path at a point, over those models of the pool that it visits."""
        layers, scaling = self.path.read(vector)
        return self.pool.manifest({}, format_path(layers), scaling)

    def encode(self, manifest: Manifest) -> Vector:
        """Indicators at their bounds, scales off the path at their start."""
        vector = self.path.axes.initial.copy()
        self.path.write(expand_path(manifest.path or ()), manifest.scaling, vector)
        return vector

    def is_active(self, vector: Vector) -> Flags:
        """See `PathCodec`."""
        return self.path.is_active(vector)


def build_dfs_genome(pool: Pool, settings: DfsSettings) -> EncodedGenome:
    """A genome of paths over sources and merges of the pool. Raises ValueError."""
    layers = {model: pool.layers_of(model) for model in settings.models}
    path = build_path_codec(layers, settings)
    genome = EncodedGenome(path.axes, DfsCodec(pool, path))
    genome.decode(path.axes.initial)
    return genome


def build_path_codec(num_layers: Mapping[str, int], settings: DfsSettings) -> PathCodec:
    """The dimensions and codec of paths; `num_layers` per model. Raises ValueError."""
    _check_settings(settings)
    counts = [(model, num_layers[model]) for model in settings.models]
    limit = min(settings.max_hops or MAX_PATH_STEPS, MAX_PATH_STEPS)
    slots = Slots(repeat_layers(counts), counts[0][1], settings.repeats, limit)
    scales = build_scales(settings.scales, slots, settings.target, settings.scale, settings.hidden)
    return PathCodec(concat_axes([_indicators(slots, settings), scales.axes]), slots, scales)


def _indicators(slots: Slots, settings: DfsSettings) -> Axes:
    """A's first pass starts at 2 sigma, all others at `other_start` sigma (the paper: 0)."""
    sigma = settings.indicator_sigma
    on = Range(-INDICATOR_BOUND, INDICATOR_BOUND, 2 * sigma, sigma)
    other = Range(-INDICATOR_BOUND, INDICATOR_BOUND, settings.other_start * sigma, sigma)
    names = [f"slot {t} {slots.layers[slots.layer(t)]}" for t in range(slots.count)]
    ranges = [on if t < slots.num_first else other for t in range(slots.count)]
    return build_axes(names, ranges, is_binary=True)


def _check_settings(settings: DfsSettings) -> None:
    if not settings.models:
        raise ValueError("models: a path needs at least one model")
    if len(set(settings.models)) != len(settings.models):
        raise ValueError(f"models: {', '.join(settings.models)} names one twice; use repeats")
    if settings.repeats < 1:
        raise ValueError(f"repeats {settings.repeats} must be at least 1")
    if settings.max_hops is not None and not 2 <= settings.max_hops <= MAX_PATH_STEPS:
        raise ValueError(f"max_hops {settings.max_hops} must be in [2, {MAX_PATH_STEPS}]")
