"""Manifest files: JSON or YAML in, a checked `Manifest` out, canonical text back."""

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from evoserve.errors import ManifestError
from evoserve.manifest.schema import Manifest

MAX_MANIFEST_BYTES = 16 * 2**20
_MAX_DEPTH = 64


def load_manifest(file: Path) -> Manifest:
    """Read and check a manifest file. Raises ManifestError that names the file and JSON path."""
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"is larger than {MAX_MANIFEST_BYTES} bytes", file=str(file))
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ManifestError(error.strerror or str(error), file=str(file)) from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"is not UTF-8 text ({error.reason})", file=str(file)) from None
    try:
        return parse_manifest(text)
    except ManifestError as error:
        raise error.in_file(str(file)) from None


def parse_manifest(text: str) -> Manifest:
    """Check JSON or YAML text. Raises ManifestError that names the JSON path."""
    return build_manifest(parse_document(text))


def build_manifest(document: object) -> Manifest:
    """A manifest from parsed JSON. Raises ManifestError that names the JSON path."""
    if not isinstance(document, Mapping):
        raise ManifestError(f"must be an object, not {type(document).__name__}")
    _check_tree(document, "", 0)
    try:
        return Manifest.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise _from_pydantic(error) from None


def parse_document(text: str) -> object:
    """The value of JSON or YAML text; duplicate keys, NaN and YAML aliases are refused."""
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
        return yaml.load(text, Loader=_PlainLoader)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise ManifestError(f"is not valid JSON or YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:
        raise ManifestError(f"cannot be read: {error}") from None


def dump_manifest(manifest: Manifest) -> str:
    """Indented JSON that loads to an equal manifest; fields at their default are left out."""
    dumped = manifest.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return json.dumps(dumped, indent=2, ensure_ascii=False) + "\n"


def save_manifest(manifest: Manifest, file: Path) -> None:
    """Write beside, then rename: `file` is either the old one or the whole new one."""
    write_text(file, dump_manifest(manifest))


def write_text(file: Path, text: str) -> None:
    """Write `text` (UTF-8) to `file` in one step that cannot be seen half done."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        temporary.chmod(0o644)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the format, as published in docs/manifest.schema.json."""
    schema = Manifest.model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _check_tree(value: object, where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise ManifestError(f"is nested deeper than {_MAX_DEPTH} levels", where=where[:80])
    if isinstance(value, float) and not math.isfinite(value):
        raise ManifestError(f"{value} is not a finite number", where=where)
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ManifestError(f"key {key!r} is not a string", where=where)
            _check_tree(item, f"{where}.{key}" if where else key, depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_tree(item, f"{where}[{index}]", depth + 1)
    elif not isinstance(value, str | int | float | bool | None):
        raise ManifestError(f"{value!r} has no JSON form", where=where)


def _from_pydantic(error: ValidationError) -> ManifestError:
    first = max(error.errors(), key=lambda item: len(item["loc"]))
    message = "unknown key" if first["type"] == "extra_forbidden" else first["msg"]
    given = first["input"]
    if isinstance(given, str | int | float | bool):
        message = f"{message} (got {given!r:.80})"
    return ManifestError(message, where=_json_path(first["loc"]))


def _json_path(location: Sequence[int | str]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part != "[key]" and not _is_type_tag(part):
            text += f".{part}" if text else part
    return text


def _is_type_tag(part: str) -> bool:
    """Pydantic names the branch of a union in the location; it is no key of the document."""
    return part.startswith(("tuple[", "constrained-", "function-")) or part in ("float", "int")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ManifestError("key given twice", where=key)
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise ManifestError(f"{name} is not a finite number")


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (they can grow a small file without bound) and duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise ManifestError("YAML aliases are not accepted")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ManifestError("key given twice", where=str(key))
        return super().construct_mapping(node, deep=deep)
