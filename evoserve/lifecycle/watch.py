"""A folder of manifests as the state that is wanted: files that come, change and go are followed.

The folder is polled, which works on every file system and mount. A file is looked at once it has
stayed the same for a poll; hidden files are left out, so writing beside and renaming is safe.
"""

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evoserve.errors import EvoServeError, UnknownRecipe
from evoserve.lifecycle.attempts import Attempts, Stamp
from evoserve.lifecycle.book import Entry
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.wanted import (
    ALIAS_FILES,
    AliasKeeper,
    WantedAliases,
    is_recipe,
    load_wanted,
)
from evoserve.manifest.load import load_manifest

WATCHED = "watch"
SETTLED_S = 2.0  # a file older than this need not be seen twice
NOTHING = WantedAliases(format="evoserve-aliases/1")

_LOG = logging.getLogger(__name__)


@dataclass
class Scan:
    """The files of a folder, and why some of them cannot be looked at."""

    files: dict[Path, Stamp] = field(default_factory=dict)
    problems: dict[Path, str] = field(default_factory=dict)


class FolderWatch:
    """Keeps the recipes that came from a folder as the folder is; others are left alone.

    Which file a recipe came from is stored with it, so files that went while the server was down
    are noticed, too. Each file is followed by a task of its own, so none waits for another's drain.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        folder: Path,
        retry_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """retry_s: how long a file that failed is let be at first; doubles with each failure."""
        self._lifecycle = lifecycle
        self._folder = folder.absolute()
        self._seen: dict[Path, Stamp] = {}
        self._attempts = Attempts(retry_s, clock)
        self._holds: dict[Path, str] = {}  # the model id of what a file held when it was last right
        self._problems: dict[Path, str] = {}
        self._tasks: dict[Path, asyncio.Task[None]] = {}
        self._aliases = AliasKeeper(lifecycle)
        self._is_lost = False

    async def run(self, poll_s: float) -> None:
        """Poll for ever, whatever a poll runs into."""
        try:
            while True:
                await asyncio.sleep(poll_s)
                try:
                    await self.look()
                except Exception:
                    _LOG.exception("watched %s: this poll failed", self._folder)
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def poll(self) -> None:
        """Follow what has changed, one file after the other, to the end."""
        await self.look(one_by_one=True)

    async def look(self, *, one_by_one: bool = False) -> None:
        """Begin to follow what has changed; a file that fails is reported and tried again later.

        A folder that cannot be read changes nothing: it may be a mount that is away.
        """
        try:
            scan = await asyncio.to_thread(_scan, self._folder)
        except OSError as error:
            if not self._is_lost:
                self._report(self._folder, f"cannot be read: {error.strerror or error}")
            self._is_lost = True
            return
        self._is_lost = False
        self._tell_problems(scan.problems)
        known = {**scan.files, **dict.fromkeys(scan.problems, (0, 0, 0))}
        recipes = [file for file in scan.files if is_recipe(file)]
        for file in recipes:
            stamp = scan.files[file]
            if self._is_stable(file, stamp) and self._attempts.is_due(file, stamp):
                await self._begin(file, self._follow(file, stamp), one_by_one)
        kept = {*known, *self._seen}
        self._attempts.keep(kept)
        self._holds = {file: held for file, held in self._holds.items() if file in kept}
        for entry in self._lifecycle.recipes:
            source = self._file_of(entry)
            if source is not None and not self._is_wanted(entry, source, known):
                await self._begin(source, self._retire(entry, source), one_by_one)
        await self._look_at_aliases(scan.files, one_by_one)
        self._seen = known

    async def _look_at_aliases(self, found: Mapping[Path, Stamp], one_by_one: bool) -> None:
        """Aliases are compared at every poll: what a plain name means may have changed."""
        files = [self._folder / name for name in ALIAS_FILES]
        there = [file for file in files if file in found]
        if not there:
            if not any(file in self._seen for file in files):
                await self._begin(files[0], self._drop_aliases(), one_by_one)
            return
        file, stamp = there[0], found[there[0]]
        is_busy = any(not task.done() for task in self._tasks.values())
        if self._is_stable(file, stamp) and self._attempts.is_due(file, stamp):
            await self._begin(file, self._follow_aliases(file, stamp, is_busy), one_by_one)

    async def _drop_aliases(self) -> None:
        await self._aliases.apply(NOTHING)

    async def _follow_aliases(self, file: Path, stamp: Stamp, is_busy: bool) -> None:
        """What is missing while recipes are still followed is no failure yet."""
        try:
            problem = await self._aliases.apply(await asyncio.to_thread(load_wanted, file))
        except EvoServeError as error:
            problem = str(error)
        if not problem:
            self._attempts.forget(file)
        elif not is_busy and self._attempts.fail(file, stamp, problem):
            self._report(file, problem)

    async def _begin(
        self, file: Path, change: Coroutine[object, object, None], one_by_one: bool
    ) -> None:
        """Have a task make a change, unless one is under way for the file."""
        if file in self._tasks and not self._tasks[file].done():
            change.close()
            return
        task = self._tasks[file] = asyncio.create_task(self._guard(file, change))
        task.add_done_callback(lambda _: change.close())
        if one_by_one:
            await task

    async def _guard(self, file: Path, change: Coroutine[object, object, None]) -> None:
        try:
            await change
        except Exception:
            _LOG.exception("watched %s: following it failed", _spell(file))
        finally:
            if self._tasks.get(file) is asyncio.current_task():
                del self._tasks[file]

    def _is_stable(self, file: Path, stamp: Stamp) -> bool:
        return self._seen.get(file) == stamp or time.time() - stamp[1] / 1e9 > SETTLED_S

    def _tell_problems(self, problems: dict[Path, str]) -> None:
        for file, reason in problems.items():
            if self._problems.get(file) != reason:
                self._report(file, reason)
        self._problems = problems

    def _is_wanted(self, entry: Entry, source: Path, found: Mapping[Path, Stamp]) -> bool:
        """Does its file hold it? A file must be missing twice: it may be about to be replaced."""
        is_there = source in found or source in self._seen
        return is_there and self._holds.get(source, entry.model_id) == entry.model_id

    async def _follow(self, file: Path, stamp: Stamp) -> None:
        """Load the recipe of a new or changed file, then drop what the file held before."""
        try:
            manifest = await asyncio.to_thread(load_manifest, file)
            for entry in self._lifecycle.recipes:
                if self._file_of(entry) == file:
                    await self._hand_over(entry, file)
            entry = await self._lifecycle.follow(manifest, file, WATCHED)
        except Exception as error:
            if not isinstance(error, EvoServeError):
                _LOG.exception("watched %s", _spell(file))
            reason = str(error) or type(error).__name__
            if self._attempts.fail(file, stamp, reason):
                self._report(file, reason)
            return
        self._attempts.succeed(file, stamp)
        self._holds[file] = entry.model_id
        entry.reason = None
        self._lifecycle.events.publish("watch", file.name, recipe=entry.model_id)

    async def _retire(self, entry: Entry, file: Path) -> None:
        """Drop a recipe that no file asks for any more; one that an alias leads to is kept."""
        try:
            if await self._hand_over(entry, file):
                return
            await self._lifecycle.delete(entry.model_id)
        except UnknownRecipe:
            return
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
        _LOG.error("watched %s: %s", _spell(file), reason)
        self._lifecycle.events.publish("watch", _spell(Path(file.name)), error=reason)


def _scan(folder: Path) -> Scan:
    """Size, time of change and inode of every manifest in the folder, by name."""
    scan = Scan()
    for file in sorted(folder.iterdir()):
        if not (is_recipe(file) or file.name in ALIAS_FILES):
            continue
        if _spell(file) != str(file):
            scan.problems[file] = "its name is not UTF-8; rename it"
            continue
        try:
            status = file.stat()
        except FileNotFoundError:  # removed while we look, or a loose link
            continue
        except OSError as error:
            scan.problems[file] = f"cannot be read: {error.strerror or error}"
            continue
        if stat.S_ISREG(status.st_mode):
            scan.files[file] = (status.st_size, status.st_mtime_ns, status.st_ino)
    return scan


def _spell(file: Path) -> str:
    """A path as text that can be written anywhere."""
    return os.fsencode(file).decode("utf-8", "replace")
