"""Parameter-space genomes: the coefficients of one merge, per group and source, as a vector.

Paper 2403.13187, section 3.1: mean 0.5, bounds [0, 1], sigma0 1/6 for weights and densities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evoserve.manifest.methods import TRAITS, MethodName
from evoserve.manifest.parts import MergeDType, MergeOptions, MergeSpec, PerGroup
from evoserve.manifest.schema import Manifest
from search.genome.axes import Axes, Range, build_axes
from search.genome.encoded import EncodedGenome
from search.genome.pool import Pool
from search.genome.protocol import Flags, Vector

MIN_DENSITY = 0.01
"""Densities below are served as this one: the manifest needs (0, 1], and dividing what DARE keeps
by less only blows up a few entries (the paper does not say what it did at 0)."""

DEFAULT_RANGES: Mapping[str, Range] = {
    "weights": Range(),
    "densities": Range(),
    "gammas": Range(0.0, 0.2, 0.01, 0.02),
    "epsilons": Range(0.0, 0.5, 0.15, 0.05),
    "t": Range(),
    "split": Range(),
}
"""Weights and densities as in the paper; no source states the others."""

_SINGULAR = {
    "weights": "weight",
    "densities": "density",
    "gammas": "gamma",
    "epsilons": "epsilon",
    "t": "t",
    "split": "split",
}
_PER_MODEL = ("weights", "densities", "gammas", "epsilons")


@dataclass(frozen=True)
class PsSettings:
    """Which merge is evolved, and how its coefficients vary.

    models: merged models in order of summation, without the base.
    groups: from `build_groups`.
    ranges: by coefficient (`weights`) or coefficient and source (`weights.ja`, which wins); a
    plain number holds that coefficient fixed. What is missing takes `DEFAULT_RANGES`.
    merge: the name of the merge in the manifest.
    """

    method: MethodName
    models: tuple[str, ...]
    base: str | None = None
    groups: tuple[str, ...] = ("all",)
    ranges: Mapping[str, Range | float] = field(default_factory=dict)
    options: MergeOptions = field(default_factory=MergeOptions)
    seed: int = 0
    dtype: MergeDType = "float32"
    merge: str = "ps"


@dataclass(frozen=True)
class Coefficient:
    """One coefficient field of one model ("" for t and split), evolved or held fixed.

    start: its first dimension (group g is dimension start + g), None if it is `fixed`.
    """

    name: str
    model: str
    start: int | None
    fixed: float = 0.0


@dataclass(frozen=True)
class MergeCodec:
    """Between a vector and a `MergeSpec`."""

    settings: PsSettings
    coefficients: tuple[Coefficient, ...]

    def read(self, vector: Vector) -> MergeSpec:
        """The merge at a point."""
        tables: dict[str, dict[str, PerGroup]] = {name: {} for name in _PER_MODEL}
        shared: dict[str, PerGroup] = {}
        for coefficient in self.coefficients:
            value = self._value(coefficient, vector)
            if coefficient.model:
                tables[coefficient.name][coefficient.model] = value
            else:
                shared[coefficient.name] = value
        s = self.settings
        return MergeSpec(
            method=s.method,
            base=s.base,
            models=s.models,
            seed=s.seed,
            dtype=s.dtype,
            options=s.options,
            groups=s.groups,
            weights=tables["weights"],
            densities=tables["densities"],
            gammas=tables["gammas"],
            epsilons=tables["epsilons"],
            t=shared.get("t"),
            split=shared.get("split"),
        )

    def write(self, spec: MergeSpec, vector: Vector) -> None:
        """Put the coefficients of `spec` into their dimensions of `vector` (in place).

        Raises KeyError for a coefficient that `spec` does not have.
        """
        count = len(self.settings.groups)
        for coefficient in self.coefficients:
            if coefficient.start is None:
                continue
            value = getattr(spec, coefficient.name)
            if coefficient.model:
                value = value[coefficient.model]
            if value is None:
                raise KeyError(coefficient.name)
            vector[coefficient.start : coefficient.start + count] = value

    def _value(self, coefficient: Coefficient, vector: Vector) -> PerGroup:
        if coefficient.start is None:
            return coefficient.fixed
        count = len(self.settings.groups)
        values = vector[coefficient.start : coefficient.start + count].tolist()
        if coefficient.name == "densities":
            values = [max(value, MIN_DENSITY) for value in values]
        return values[0] if count == 1 else tuple(values)


@dataclass(frozen=True)
class PsCodec:
    """The recipe that is one merge."""

    pool: Pool
    axes: Axes
    merge: MergeCodec

    def decode(self, vector: Vector) -> Manifest:
        """The merge at a point, whole."""
        return self.pool.manifest({self.merge.settings.merge: self.merge.read(vector)})

    def encode(self, manifest: Manifest) -> Vector:
        """The coefficients of the manifest's merge."""
        vector = self.axes.initial.copy()
        self.merge.write(manifest.merges[self.merge.settings.merge], vector)
        return vector

    def is_active(self, vector: Vector) -> Flags:
        """Every coefficient is in the manifest; a density held at the minimum still counts."""
        return np.ones(len(vector), dtype=bool)


def build_ps_genome(pool: Pool, settings: PsSettings) -> EncodedGenome:
    """A genome of one merge. Raises ValueError or ManifestError for settings that do not fit."""
    axes, merge = build_merge_codec(pool, settings)
    genome = EncodedGenome(axes, PsCodec(pool, axes, merge))
    genome.decode(axes.initial)
    return genome


def build_merge_codec(pool: Pool, settings: PsSettings) -> tuple[Axes, MergeCodec]:
    """The dimensions of one merge and their codec. Raises ValueError for a wrong setting."""
    _check_settings(pool, settings)
    names: list[str] = []
    ranges: list[Range] = []
    coefficients: list[Coefficient] = []
    for field_name, model in _fields(settings):
        chosen = _range(settings, field_name, model)
        if isinstance(chosen, Range):
            coefficients.append(Coefficient(field_name, model, len(names)))
            names.extend(_names(settings, field_name, model))
            ranges.extend([chosen] * len(settings.groups))
        else:
            coefficients.append(Coefficient(field_name, model, None, float(chosen)))
    return build_axes(names, ranges), MergeCodec(settings, tuple(coefficients))


def _fields(settings: PsSettings) -> list[tuple[str, str]]:
    """What the method reads, as (coefficient, model); t and split belong to no model."""
    reads = TRAITS[settings.method].coefficients
    per_model = [(name, model) for model in settings.models for name in _PER_MODEL if name in reads]
    return per_model + [(name, "") for name in ("t", "split") if name in reads]


def _range(settings: PsSettings, name: str, model: str) -> Range | float:
    general = settings.ranges.get(name, DEFAULT_RANGES[name])
    return settings.ranges.get(f"{name}.{model}", general) if model else general


def _names(settings: PsSettings, name: str, model: str) -> list[str]:
    head = f"{_SINGULAR[name]} {model}" if model else _SINGULAR[name]
    return [f"{head} {group}" for group in settings.groups]


def _check_settings(pool: Pool, settings: PsSettings) -> None:
    pool.check_known((*settings.models, *([settings.base] if settings.base else [])))
    if settings.merge in pool.models:
        raise ValueError(f"merge name '{settings.merge}' is taken by a model of the pool")
    fields = _fields(settings)
    keys = {name for name, _ in fields} | {f"{name}.{model}" for name, model in fields if model}
    for key in settings.ranges:
        if key not in keys:
            raise ValueError(
                f"ranges.{key}: {settings.method} of these models has no such coefficient; "
                f"it has {', '.join(sorted(keys)) or 'none'}"
            )
    for name, model in fields:
        _check_range(name, _range(settings, name, model))


def _check_range(name: str, chosen: Range | float) -> None:
    low, high = (-1e4, 1e4) if name == "weights" else (0.0, 1.0)
    ends = (chosen.lower, chosen.upper) if isinstance(chosen, Range) else (chosen, chosen)
    if not low <= min(ends) <= max(ends) <= high:
        raise ValueError(f"ranges.{name}: {ends} must lie within [{low}, {high}]")
    if name == "densities" and max(ends) < MIN_DENSITY:
        raise ValueError(f"ranges.{name}: {ends} lies below the least density {MIN_DENSITY}")
