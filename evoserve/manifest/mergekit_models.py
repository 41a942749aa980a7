"""Model references of mergekit's YAML, and the names that a manifest gives them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoserve.errors import ManifestError
from evoserve.manifest.document import describe, join_path

_UNSAFE = re.compile(r"[^A-Za-z0-9_\-]+")


@dataclass(frozen=True)
class ModelRef:
    """A model as the file names it: `path@revision+adapter@revision`."""

    model: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None


def parse_model(value: object, where: str) -> ModelRef:
    """A model reference, text or object. Raises ManifestError."""
    if isinstance(value, str):
        parts = value.split("+")
        if len(parts) > 2:
            raise ManifestError(f"'{value}' has more than one +", where=where)
        model, revision = _located(parts[0], where)
        adapter, adapter_revision = _located(parts[1], where) if len(parts) == 2 else (None, None)
        return ModelRef(model, revision, adapter, adapter_revision)
    given = check_object(value, where, ("model", "lora"))
    model, revision = _located(given.get("model"), f"{where}.model")
    if given.get("lora") is None:
        return ModelRef(model, revision)
    return ModelRef(model, revision, *_located(given["lora"], f"{where}.lora"))


def source_name(ref: ModelRef, taken: Sequence[str]) -> str:
    """A name for the source in the manifest, from the last part of its path; none of `taken`."""
    path = (ref.adapter or ref.model).rstrip("/").rsplit("/", 1)[-1]
    word = _UNSAFE.sub("_", path).strip("_")[:48] or "model"
    word = word if word[0].isalpha() else f"m_{word}"
    return free_name(word, taken)


def free_name(word: str, taken: Sequence[str]) -> str:
    """`word`, or with the least number behind it that makes it new."""
    number, name = 2, word
    while name in taken:
        name, number = f"{word}_{number}", number + 1
    return name


def check_object(value: object, where: str, known: Sequence[str]) -> Mapping[str, Any]:
    """`value` as an object of known keys. Raises ManifestError; a null key counts as not given."""
    if not isinstance(value, Mapping):
        raise ManifestError(f"must be an object, not {describe(value)}", where=where)
    for key, item in value.items():
        if key not in known and item is not None:
            raise ManifestError(
                f"unknown key; supported: {', '.join(known)}", where=join_path(where, key)
            )
    return value


def check_list(value: object, where: str) -> list[Any]:
    """`value` as a list that is not empty. Raises ManifestError."""
    if not isinstance(value, list) or not value:
        raise ManifestError("must be a list with at least one entry", where=where)
    return value


def _located(value: object, where: str) -> tuple[str, str | None]:
    if isinstance(value, Mapping):
        given = check_object(value, where, ("path", "revision"))
        path, revision = given.get("path"), given.get("revision")
    else:
        text = value if isinstance(value, str) else ""
        if text.count("@") > 1:
            raise ManifestError(f"'{text}' has more than one @", where=where)
        path, _, revision = text.partition("@")
    if not isinstance(path, str) or not path:
        raise ManifestError("must name a model", where=where)
    return path, revision or None
