"""Manifest files: JSON or YAML in, a checked `Manifest` out, canonical text back."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evoserve.errors import ManifestError
from evoserve.manifest.document import (
    MAX_DOCUMENT_CHARS,
    check_document,
    describe,
    parse_document,
)
from evoserve.manifest.explain import explain
from evoserve.manifest.schema import Manifest

MAX_MANIFEST_BYTES = 4 * MAX_DOCUMENT_CHARS


def load_manifest(file: Path) -> Manifest:
    """Read and check a manifest file. Raises ManifestError that names the file and JSON path."""
    try:
        return parse_manifest(read_text(file))
    except ManifestError as error:
        raise error.in_file(str(file)) from None


def read_text(file: Path) -> str:
    """The text of a manifest file. Raises ManifestError if it is missing, huge or not UTF-8."""
    try:
        if file.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"is larger than {MAX_MANIFEST_BYTES} bytes")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"is not UTF-8 text ({error.reason})") from None


def parse_manifest(text: str) -> Manifest:
    """Check JSON or YAML text. Raises ManifestError that names the JSON path."""
    return build_manifest(parse_document(text))


def build_manifest(document: object) -> Manifest:
    """A manifest from parsed JSON. Raises ManifestError that names the JSON path."""
    if not isinstance(document, Mapping):
        raise ManifestError(f"a manifest must be an object, not {describe(document)}")
    check_document(document)
    if "merge_method" in document and "format" not in document:
        raise ManifestError("is a mergekit configuration; make a manifest with `evoserve import`")
    text = json.dumps(document)
    try:
        return Manifest.model_validate_json(text, by_alias=True, by_name=False)
    except ValidationError as error:
        raise explain(error, document) from None


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
