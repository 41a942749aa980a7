"""What a mergekit configuration says of every tensor of an output slice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evoserve.errors import ManifestError
from evoserve.manifest.check import check_coefficient
from evoserve.manifest.document import join_path
from evoserve.manifest.grouping import Row
from evoserve.manifest.mergekit_config import Input, MergekitConfig, Slice
from evoserve.manifest.mergekit_methods import SharedParameter
from evoserve.manifest.mergekit_models import ModelRef
from evoserve.manifest.mergekit_values import Scope, resolve
from evoserve.manifest.methods import TRAITS, OptionValue
from evoserve.manifest.tensor_names import EMBED_TENSORS, HEAD_TENSORS, LAYER_TENSORS, full_name

Cell = str | int
"""`embed`, `head` or the number of a source layer."""


@dataclass(frozen=True)
class Column:
    """One number of a row: mergekit's `word` of `model` is the manifest's `field`.

    model: None for slerp's t, which all models share.
    """

    field: str
    word: str
    model: ModelRef | None


@dataclass(frozen=True)
class SlicePlace:
    """A slice, its first output layer, and whether it also gives the embedding or the head."""

    slice: Slice
    offset: int
    has_embed: bool
    has_head: bool


@dataclass(frozen=True)
class _Tensor:
    cell: Cell
    key: str
    read_name: str
    written_name: str
    t: float


def merged_inputs(config: MergekitConfig, slice_: Slice) -> tuple[Input, ...]:
    """The models that are merged, in order: all, or all but the base."""
    if config.declared.base == "ignored":
        return slice_.inputs
    return tuple(item for item in slice_.inputs if item.model != slice_.base)


def columns(config: MergekitConfig, slice_: Slice) -> tuple[Column, ...]:
    """What the numbers of a row are."""
    found = [
        Column(parameter.field, word, item.model)
        for word, parameter in config.declared.inputs.items()
        for item in merged_inputs(config, slice_)
    ]
    return (*found, Column("t", "t", None)) if config.declared.has_t else tuple(found)


def read_rows(config: MergekitConfig, place: SlicePlace) -> dict[Cell, dict[str, Row]]:
    """The row of every tensor of the slice, by cell and by name within it.

    Raises ManifestError for a missing, malformed or out-of-range parameter.
    """
    wanted = columns(config, place.slice)
    rows: dict[Cell, dict[str, Row]] = {}
    for tensor in _tensors(place):
        row = tuple(_number(config, place.slice, column, tensor) for column in wanted)
        rows.setdefault(tensor.cell, {})[tensor.key] = row
    return rows


def read_options(config: MergekitConfig, place: SlicePlace) -> dict[str, OptionValue]:
    """The merge's options. Raises ManifestError for one that is not alike for all tensors."""
    scopes = (place.slice.scope, *config.scopes)
    tensors = list(_tensors(place))
    options: dict[str, OptionValue] = {}
    for word, parameter in config.declared.shared.items():
        value, where = _read_option(parameter, word, scopes, tensors)
        if parameter.option != "rescale":
            options[parameter.option] = value
        elif "rescale" in TRAITS[config.method].options:
            options["rescale"] = "l1" if value else "none"
        elif value:
            raise ManifestError(f"{config.method} cannot rescale here; leave it out", where=where)
    return options


def _tensors(place: SlicePlace) -> Iterator[_Tensor]:
    """All tensors with the t that mergekit gives them: a slice of one layer has t = 1, not 0."""
    if place.has_embed:
        yield from (_Tensor("embed", name, name, name, 0.0) for name in EMBED_TENSORS)
    count = place.slice.stop - place.slice.start
    for index in range(count):
        layer = place.slice.start + index
        t = index / (count - 1) if count > 1 else 1.0
        for short in LAYER_TENSORS:
            written = full_name(place.offset + index, short)
            yield _Tensor(layer, short, full_name(layer, short), written, t)
    if place.has_head:
        yield from (_Tensor("head", name, name, name, 0.0) for name in HEAD_TENSORS)


def _number(config: MergekitConfig, slice_: Slice, column: Column, tensor: _Tensor) -> float:
    scopes: tuple[Scope, ...] = (slice_.scope, *config.scopes)
    default, name = None, tensor.written_name
    if column.model is not None:
        own = next(item.scope for item in slice_.inputs if item.model == column.model)
        scopes, name = (own, *scopes), tensor.read_name
        default = config.declared.inputs[column.word].default
    found = resolve(column.word, "float", scopes, name, tensor.t)
    if found is not None:
        check_coefficient(found.where, column.field, float(found.value))
        return float(found.value)
    if default is None:
        of = f" of model '{column.model.model}'" if column.model is not None else ""
        raise ManifestError(
            f"{config.method} needs '{column.word}'{of} at tensor {name}; no parameters give it",
            where=join_path(scopes[0].where, column.word),
        )
    return default


def _read_option(
    parameter: SharedParameter, word: str, scopes: Sequence[Scope], tensors: Sequence[_Tensor]
) -> tuple[OptionValue, str]:
    if all(word not in scope.settings for scope in scopes):
        return parameter.default, ""
    seen: dict[OptionValue, str] = {}
    for tensor in tensors:
        found = resolve(word, parameter.kind, scopes, tensor.written_name, tensor.t)
        value = parameter.default if found is None else found.value
        seen.setdefault(value, "" if found is None else found.where)
    if len(seen) > 1:
        first, second = list(seen)[:2]
        where = next(where for where in seen.values() if where)
        raise ManifestError(
            f"is {first} for some tensors and {second} for others; it must be one value per slice",
            where=where,
        )
    return next(iter(seen.items()))
