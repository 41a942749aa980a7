"""What pydantic found wrong, as one ManifestError that a reader of the file understands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from evoserve.errors import ManifestError
from evoserve.manifest.document import describe, join_path
from evoserve.manifest.parts import (
    AdapterSpec,
    EvaluationSpec,
    GenerationSpec,
    MergeOptions,
    MergeSpec,
    NetworkScaling,
    ScalingSpec,
    SourceSpec,
)
from evoserve.manifest.schema import Manifest

_WANTED = {
    "float_type": "a number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "string_type": "text",
    "bool_type": "a boolean",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}
_DULLNESS = {"extra_forbidden": 0, "missing": 2, **dict.fromkeys(_WANTED, 3)}
_MODELS: tuple[tuple[tuple[str, ...], type[BaseModel]], ...] = (
    ((), Manifest),
    (("sources", "*"), SourceSpec),
    (("sources", "*", "adapter"), AdapterSpec),
    (("merges", "*"), MergeSpec),
    (("merges", "*", "options"), MergeOptions),
    (("scaling",), ScalingSpec),
    (("scaling", "network"), NetworkScaling),
    (("generation",), GenerationSpec),
    (("evaluation", "*"), EvaluationSpec),
)


@dataclass(frozen=True)
class _Fault:
    keys: tuple[str | int, ...]
    kind: str
    message: str
    value: object


def explain(error: ValidationError, document: object) -> ManifestError:
    """The most telling of pydantic's errors about `document`: the deepest, unknown keys first.

    A value that fits no branch of a union fails in each of them; those become one message.
    """
    faults = [_fault(item, document) for item in error.errors(include_url=False)]
    depth = max(len(fault.keys) for fault in faults)
    deepest = [fault for fault in faults if len(fault.keys) == depth]
    first = min(deepest, key=lambda fault: _DULLNESS.get(fault.kind, 1))
    return ManifestError(_message(first, deepest), where=_path(first.keys))


def _fault(item: Mapping[str, Any], document: object) -> _Fault:
    keys: list[str | int] = []
    here: object = document
    for part in item["loc"]:
        if _has(here, part):
            here = here[part]  # type: ignore[index]
        elif item["type"] != "missing" or part != item["loc"][-1]:
            continue  # the name of a union's branch, or the mark of a key: nothing in the document
        keys.append(part)
    return _Fault(tuple(keys), item["type"], item["msg"], item["input"])


def _has(value: object, key: str | int) -> bool:
    if isinstance(value, Mapping):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def _message(fault: _Fault, all_: Sequence[_Fault]) -> str:
    if fault.kind == "missing":
        return "is required"
    if fault.kind == "extra_forbidden":
        return f"unknown key; known: {', '.join(_known(fault.keys[:-1])) or 'none'}"
    if fault.kind in _WANTED:
        same = [_WANTED[f.kind] for f in all_ if f.keys == fault.keys and f.kind in _WANTED]
        wanted = " or ".join(dict.fromkeys(same))
        return f"must be {wanted}, not {describe(fault.value)}{_got(fault.value)}"
    for word in ("Input ", "String ", "Tuple ", "Dictionary "):
        message = fault.message.removeprefix(word)
        if message != fault.message:
            return message.replace(" after validation", "") + _got(fault.value)
    return fault.message + _got(fault.value)


def _got(value: object) -> str:
    if not isinstance(value, str | int | float):
        return ""
    text = repr(value)
    return f" (got {text if len(text) <= 80 else text[:77] + '...'})"


def _known(keys: Sequence[str | int]) -> list[str]:
    for pattern, model in _MODELS:
        if len(pattern) == len(keys) and all(
            want in ("*", key) for want, key in zip(pattern, keys, strict=True)
        ):
            return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _path(keys: Sequence[str | int]) -> str:
    text = ""
    for key in keys:
        text = join_path(text, key)
    return text
