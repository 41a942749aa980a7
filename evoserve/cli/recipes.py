"""Recipe files from the command line: finding them, opening them with their sources."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from evoserve.config import Settings
from evoserve.errors import ManifestError
from evoserve.lifecycle.wanted import is_recipe
from evoserve.manifest.load import load_manifest
from evoserve.sources.locate import build_locator
from evoserve.sources.recipe import Recipe
from evoserve.sources.resolve import resolve_recipe


def find_recipes(paths: Sequence[Path]) -> list[Path]:
    """Recipe files: the given ones, and those that lie in the given folders, sorted by name.

    Hidden files and the alias file of a watched folder are no recipes. Raises ManifestError for a
    path that is not there or a folder without recipes.
    """
    return [file for path in paths for file in _expand(path)]


def open_recipe(file: Path, settings: Settings, *, verify: bool = True) -> Recipe:
    """Load a manifest and open its sources; relative sources count from the manifest's folder.

    Raises ManifestError and SourceError.
    """
    manifest = load_manifest(file)
    locator = build_locator(settings, file.parent)
    return resolve_recipe(manifest, locator, verify=verify and settings.verify_digests)


def _expand(path: Path) -> Iterator[Path]:
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if is_recipe(file))
        if not found:
            raise ManifestError("holds no recipe (.json, .yaml)", file=str(path))
        yield from found
    elif path.exists():
        yield path
    else:
        raise ManifestError("does not exist", file=str(path))
