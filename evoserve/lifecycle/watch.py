"""A folder of manifests as the state that is wanted: files that come, change and go are followed.

The folder is polled, which works on every file system and mount. A file is looked at once it has
stayed the same for a poll; hidden files are left out, so writing beside and renaming is safe.
"""

import asyncio
import logging
import time
from pathlib import Path

from evoserve.errors import EvoServeError
from evoserve.lifecycle.book import Entry
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.manifest.load import load_manifest

SUFFIXES = (".json", ".yaml", ".yml")
WATCHED = "watch"
SETTLED_S = 2.0  # a file older than this need not be seen twice

_LOG = logging.getLogger(__name__)

Stamp = tuple[int, int, int]


class FolderWatch:
    """Keeps the recipes that came from a folder as the folder is; others are left alone.

    Which file a recipe came from is stored with it, so files that went while the server was down
    are noticed, too.
    """

    def __init__(self, lifecycle: Lifecycle, folder: Path) -> None:
        self._lifecycle = lifecycle
        self._folder = folder.absolute()
        self._seen: dict[Path, Stamp] = {}
        self._done: dict[Path, Stamp] = {}
        self._is_lost = False

    async def run(self, poll_s: float) -> None:
        """Poll for ever."""
        while True:
            await asyncio.sleep(poll_s)
            await self.poll()

    async def poll(self) -> None:
        """Follow what has changed; a file that fails is reported, and tried again once changed.

        A folder that cannot be read changes nothing: it may be a mount that is away.
        """
        try:
            found = await asyncio.to_thread(_scan, self._folder)
        except OSError as error:
            if not self._is_lost:
                self._report(self._folder, f"cannot be read: {error.strerror or error}")
            self._is_lost = True
            return
        self._is_lost = False
        for file, stamp in found.items():
            is_stable = self._seen.get(file) == stamp or time.time() - stamp[1] / 1e9 > SETTLED_S
            if is_stable and self._done.get(file) != stamp:
                self._done[file] = stamp
                await self._follow(file)
        for entry in self._lifecycle.recipes:
            source = self._file_of(entry)
            if source is not None and source not in found:
                self._done.pop(source, None)
                await self._retire(entry, source)
        self._seen = found

    async def _follow(self, file: Path) -> None:
        """Load the recipe of a new or changed file, then drop what the file held before."""
        try:
            manifest = await asyncio.to_thread(load_manifest, file)
            entry = await self._lifecycle.follow(manifest, file, WATCHED)
        except EvoServeError as error:
            self._report(file, str(error))
            return
        self._lifecycle.events.publish("watch", file.name, recipe=entry.model_id)

    async def _retire(self, entry: Entry, file: Path) -> None:
        """Drop a recipe that no file asks for any more; one that an alias leads to is kept."""
        try:
            await self._lifecycle.delete(entry.model_id)
        except EvoServeError as error:
            if entry.reason != str(error):
                entry.reason = str(error)
                self._report(file, str(error))
            return
        self._lifecycle.events.publish("watch", file.name, removed=entry.model_id)

    def _file_of(self, entry: Entry) -> Path | None:
        """The file of this folder that a recipe came from."""
        kind, _, path = entry.stored.origin.partition(":")
        file = Path(path)
        return file if kind == WATCHED and file.parent == self._folder else None

    def _report(self, file: Path, reason: str) -> None:
        _LOG.error("watched %s: %s", file, reason)
        self._lifecycle.events.publish("watch", file.name, error=reason)


def _scan(folder: Path) -> dict[Path, Stamp]:
    """Size, time of change and inode of every manifest in the folder, by name."""
    stamps: dict[Path, Stamp] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix in SUFFIXES and not file.name.startswith(".") and file.is_file():
            status = file.stat()
            stamps[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamps
