"""A folder of manifests as the state that is wanted: files that come, change and go are followed.

The folder is polled, which works on every file system and mount. A file is looked at once it has
stayed the same for a poll; hidden files are left out, so writing beside and renaming is safe.
"""

import asyncio
import contextlib
import logging
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from evoserve.errors import CapacityError, EvoServeError
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
        self._holds: dict[Path, str] = {}  # the model id of what a file held when it was last right
        self._is_lost = False

    async def run(self, poll_s: float) -> None:
        """Poll for ever, whatever a poll runs into."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                await self.poll()
            except Exception:
                _LOG.exception("watched %s: this poll failed", self._folder)

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
        for file in {*self._done, *self._holds} - {*found, *self._seen}:
            self._done.pop(file, None)
            self._holds.pop(file, None)
        for entry in self._lifecycle.recipes:
            source = self._file_of(entry)
            if source is not None and not self._is_wanted(entry, source, found):
                await self._retire(entry, source)
        self._seen = found

    def _is_wanted(self, entry: Entry, source: Path, found: Mapping[Path, Stamp]) -> bool:
        """Does its file hold it? A file must be missing twice: it may be about to be replaced."""
        is_there = source in found or source in self._seen
        return is_there and self._holds.get(source, entry.model_id) == entry.model_id

    async def _follow(self, file: Path) -> None:
        """Load the recipe of a new or changed file, then drop what the file held before."""
        try:
            manifest = await asyncio.to_thread(load_manifest, file)
            for entry in self._lifecycle.recipes:
                if self._file_of(entry) == file:
                    await self._hand_over(entry, file)
            entry = await self._lifecycle.follow(manifest, file, WATCHED)
        except EvoServeError as error:
            if isinstance(error, CapacityError):  # there may be room later
                del self._done[file]
            self._report(file, str(error))
            return
        self._holds[file] = entry.model_id
        entry.reason = None
        self._lifecycle.events.publish("watch", file.name, recipe=entry.model_id)

    async def _retire(self, entry: Entry, file: Path) -> None:
        """Drop a recipe that no file asks for any more; one that an alias leads to is kept."""
        try:
            if await self._hand_over(entry, file):
                return
            await self._lifecycle.delete(entry.model_id)
        except EvoServeError as error:
            if entry.reason != str(error):
                entry.reason = str(error)
                self._report(file, str(error))
            return
        self._lifecycle.events.publish("watch", file.name, removed=entry.model_id)

    async def _hand_over(self, entry: Entry, file: Path) -> bool:
        """Let a recipe count as that of another file which holds it, too; is there one?"""
        others = [each for each, held in self._holds.items() if held == entry.model_id]
        other = next((each for each in others if each != file), None)
        if other is None:
            return False
        origin = f"{WATCHED}:{other}"
        await self._lifecycle.register(entry.manifest, base=other.parent, origin=origin)
        return True

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
        if file.suffix in SUFFIXES and not file.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):  # removed while we look, or a loose link
                status = file.stat()
                if stat.S_ISREG(status.st_mode):
                    stamps[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return stamps
