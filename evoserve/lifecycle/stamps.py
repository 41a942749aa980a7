"""Tells whether sources that carry no digest have changed on disk, without reading them."""

import hashlib
from collections.abc import Mapping

from evoserve.sources.digest import content_state
from evoserve.sources.recipe import Recipe


def source_stamps(recipe: Recipe) -> dict[str, str]:
    """Of each source that is not pinned: its weight files by path, size, mtime and inode."""
    stamps: dict[str, str] = {}
    for name, spec in recipe.manifest.sources.items():
        checkpoint = recipe.checkpoints[name]
        files = content_state(checkpoint.folder) if spec.digest is None else ()
        if spec.adapter is not None and spec.adapter.digest is None and checkpoint.adapter:
            files += content_state(checkpoint.adapter)
        if files:
            stamps[name] = hashlib.sha256("\n".join(files).encode()).hexdigest()
    return stamps


def change_warnings(known: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """One for each source whose files are not those that are known."""
    return tuple(
        f"source '{name}' has changed since it was registered; pin digests with `evoserve pin`"
        for name, stamp in now.items()
        if known.get(name) != stamp
    )
