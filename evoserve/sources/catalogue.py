"""The catalogue: a TOML file that gives sources short names, so that manifests can be shared.

[sources."mini/base"]
path = "mini/base"                 # relative to this file, or
model = "org/name"                 # a Hugging Face id or another name of the catalogue, with
revision = "..."                   # an optional branch, tag or commit
license = "Apache-2.0"             # optional, as is
description = "..."
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evoserve.errors import SourceError

_KEYS = ("path", "model", "revision", "license", "description")


@dataclass(frozen=True)
class CatalogueEntry:
    """Where a named source is: `path` (absolute) or `model`, never both."""

    path: Path | None = None
    model: str | None = None
    revision: str | None = None
    license: str | None = None
    description: str | None = None


def load_catalogue(file: Path) -> Mapping[str, CatalogueEntry]:
    """Entries by name; relative paths count from the file's folder.

    Raises SourceError that names the file and the entry.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"catalogue {file}: {error}") from None
    unknown = sorted(set(document) - {"sources"})
    sources = document.get("sources", {})
    if unknown or not isinstance(sources, dict):
        raise SourceError(
            f"catalogue {file}: '{(unknown or ['sources'])[0]}' is not expected here; it holds "
            'tables such as [sources."mini/base"]'
        )
    return {name: _parse_entry(file, name, value) for name, value in sources.items()}


def _parse_entry(file: Path, name: str, value: object) -> CatalogueEntry:
    where = f"catalogue {file}: sources.{name}"
    if not isinstance(value, dict):
        raise SourceError(f"{where}: must be a table with a path or a model")
    for key, item in value.items():
        if key not in _KEYS:
            raise SourceError(f"{where}: unknown key '{key}'; known: {', '.join(_KEYS)}")
        if not isinstance(item, str) or not item:
            raise SourceError(f"{where}.{key} = {item!r} must be a text that is not empty")
    if ("path" in value) == ("model" in value):
        raise SourceError(f"{where}: give either path or model")
    if "path" in value and "revision" in value:
        raise SourceError(f"{where}: a local path has no revision")
    path = file.absolute().parent / value["path"] if "path" in value else None
    return CatalogueEntry(**{**value, "path": path})
