"""What a parameter of a mergekit configuration is at one tensor: gradients, filters, scopes.

Semantics of mergekit 0.1.5 (`config.evaluate_setting`, `parameter_resolver`): the first choice
whose filter is a substring of the tensor's name counts; a list is a gradient over t in [0, 1];
what a scope leaves open is looked up in the next wider one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evoserve.errors import ManifestError
from evoserve.manifest.document import describe, join_path
from evoserve.manifest.mergekit_methods import Kind

Scalar = bool | int | float | str
_TRUE = ("1", "on", "t", "true", "y", "yes")
_FALSE = ("0", "off", "f", "false", "n", "no")


@dataclass(frozen=True)
class Choice:
    """One value or gradient (points are evenly spaced over t) for the tensors of a filter."""

    filter: str | None
    points: tuple[Scalar, ...]

    def matches(self, tensor_name: str) -> bool:
        """Does it speak of this tensor?"""
        return self.filter is None or self.filter == "*" or self.filter in tensor_name


@dataclass(frozen=True)
class Scope:
    """The `parameters` of one place in the file: choices by parameter, and where they stand."""

    where: str
    settings: Mapping[str, tuple[Choice, ...]]


@dataclass(frozen=True)
class Resolved:
    """A parameter's value at a tensor and the path of the setting it came from."""

    value: float | int | bool
    where: str


def parse_scope(value: object, where: str) -> Scope:
    """The scope of a `parameters` object (None: empty). Raises ManifestError."""
    if value is None:
        return Scope(where, {})
    if not isinstance(value, Mapping):
        raise ManifestError(f"must be an object, not {describe(value)}", where=where)
    settings = {name: _choices(item, join_path(where, name)) for name, item in value.items()}
    return Scope(where, settings)


def resolve(
    name: str, kind: Kind, scopes: Sequence[Scope], tensor_name: str, t: float
) -> Resolved | None:
    """The value of parameter `name`; scopes come narrowest first. None if no scope speaks of it."""
    for scope in scopes:
        choices = scope.settings.get(name, ())
        choice = next((c for c in choices if c.matches(tensor_name)), None)
        if choice is not None and choice.points:
            where = join_path(scope.where, name)
            return Resolved(_at(choice.points, kind, t, where), where)
    return None


def convert(value: Scalar, kind: Kind, where: str) -> float | int | bool:
    """`value` as mergekit (pydantic's lax mode) reads it. Raises ManifestError."""
    converted = {"bool": _to_bool, "int": _to_int, "float": _to_float}[kind](value)
    if converted is None:
        wanted = {"bool": "a boolean", "int": "an integer", "float": "a finite number"}[kind]
        raise ManifestError(f"must be {wanted}, not {value!r:.60}", where=where)
    return converted


def _choices(value: object, where: str) -> tuple[Choice, ...]:
    if isinstance(value, Mapping):
        return (_conditional(value, where),)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return tuple(
            _conditional(item, join_path(where, index)) for index, item in enumerate(value)
        )
    return (Choice(None, _points(value, where)),)


def _conditional(value: object, where: str) -> Choice:
    if not isinstance(value, Mapping):
        raise ManifestError(
            f"must be an object with value and filter, not {describe(value)}", where=where
        )
    unknown = [key for key in value if key not in ("value", "filter")]
    if unknown or "value" not in value:
        what = f"unknown key '{unknown[0]}'" if unknown else "lacks 'value'"
        raise ManifestError(f"{what}; known: value, filter", where=where)
    filter_ = value.get("filter")
    if filter_ is not None and not isinstance(filter_, str):
        raise ManifestError(f"must be text, not {describe(filter_)}", where=f"{where}.filter")
    return Choice(filter_, _points(value["value"], f"{where}.value"))


def _points(value: object, where: str) -> tuple[Scalar, ...]:
    items = value if isinstance(value, list) else [value]
    for item in items:
        if not isinstance(item, bool | int | float | str):
            raise ManifestError(
                f"must be a number or a list of numbers, not {describe(item)}", where=where
            )
    return tuple(items)


def _at(points: tuple[Scalar, ...], kind: Kind, t: float, where: str) -> float | int | bool:
    values = [convert(point, kind, where) for point in points]
    scaled = t * (len(values) - 1)
    before = int(scaled)
    if kind == "bool":
        return values[before]
    after = min(len(values) - 1, before + 1)
    part = scaled - before
    return convert((1 - part) * values[before] + part * values[after], kind, where)


def _to_bool(value: Scalar) -> bool | None:
    if isinstance(value, str):
        return True if value.lower() in _TRUE else (False if value.lower() in _FALSE else None)
    return bool(value) if value in (0, 1) else None


def _to_int(value: Scalar) -> int | None:
    number = _to_float(value)
    return int(number) if number is not None and number.is_integer() else None


def _to_float(value: Scalar) -> float | None:
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
