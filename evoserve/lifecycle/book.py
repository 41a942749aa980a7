"""The registered recipes and the plain names that mean them, kept in step with the store."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from evoserve.engine.protocol import ModelInfo
from evoserve.errors import ManifestError, StateError, UnknownRecipe
from evoserve.lifecycle.events import EventLog
from evoserve.lifecycle.footprint import Footprint
from evoserve.lifecycle.progress import ReadCounter
from evoserve.lifecycle.store import StateStore, StoredRecipe
from evoserve.manifest.canonical import model_id
from evoserve.manifest.load import dump_manifest, parse_manifest
from evoserve.manifest.schema import Manifest

_LOG = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0  # of a failed recipe by requests; doubles in between


class RecipeState(StrEnum):
    """Where a recipe is between registered and served."""

    REGISTERED = "registered"
    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True)
class Progress:
    """A build under way: what it has read of the bytes it must read, since when (monotonic)."""

    counter: ReadCounter
    total_bytes: int
    start_s: float

    @property
    def read_bytes(self) -> int:
        """Bytes of sources read so far; some are read twice, so it is cut off at the total."""
        return min(self.counter.num_bytes, self.total_bytes)


@dataclass(eq=False)
class Entry:
    """A registered recipe and what is known of it now.

    reason: why it failed or was refused; num_held: requests that are about to be submitted;
    no_holds: set while there are none; last_used, failed_at: monotonic; num_failures: since it was
    ready; num_registered: times in this process; stamps: of the sources that carry no digest, as
    they were when it was registered.
    """

    stored: StoredRecipe
    manifest: Manifest
    state: RecipeState = RecipeState.REGISTERED
    reason: str | None = None
    footprint: Footprint | None = None
    info: ModelInfo | None = None
    warnings: tuple[str, ...] = ()
    progress: Progress | None = None
    last_used: float = field(default_factory=time.monotonic)
    num_held: int = 0
    no_holds: asyncio.Event = field(default_factory=asyncio.Event)
    num_failures: int = 0
    failed_at: float = 0.0
    num_registered: int = 0
    stamps: Mapping[str, str] | None = None

    @property
    def model_id(self) -> str:
        """`name@digest12`."""
        return self.stored.model_id

    @property
    def base(self) -> Path | None:
        """The folder that relative sources count from, None for the server's own."""
        return None if self.stored.base is None else Path(self.stored.base)

    @property
    def is_loaded(self) -> bool:
        """Does it hold memory?"""
        return self.state in (RecipeState.READY, RecipeState.DRAINING)

    @property
    def is_busy(self) -> bool:
        """Is it on its way from one state to another?"""
        return self.state in (RecipeState.QUEUED, RecipeState.BUILDING, RecipeState.DRAINING)

    @property
    def retry_in_s(self) -> float:
        """How long requests must leave it alone after a failure; 0 once it may be tried."""
        if self.state is not RecipeState.FAILED:
            return 0.0
        pause = min(FIRST_RETRY_S * 2.0 ** min(self.num_failures - 1, 30), LAST_RETRY_S)
        return max(0.0, self.failed_at + pause - time.monotonic())

    def hold(self) -> None:
        """A request is about to be submitted: it must not be unloaded under it."""
        self.num_held += 1
        self.no_holds.clear()
        self.last_used = time.monotonic()

    def release(self) -> None:
        """The request has been submitted, or given up."""
        self.num_held -= 1
        self.last_used = time.monotonic()
        if self.num_held == 0:
            self.no_holds.set()


class RecipeBook:
    """All entries by model id, in order of registration; used in the event loop only."""

    def __init__(self, store: StateStore, events: EventLog) -> None:
        """Reads what the store has; a manifest that is valid no more stays in the store alone."""
        self._store = store
        self._events = events
        self._entries: dict[str, Entry] = {}
        for stored in store.recipes():
            try:
                manifest = parse_manifest(stored.manifest)
            except ManifestError as error:
                _LOG.error("recipe %s of the state file is left out: %s", stored.model_id, error)
                continue
            self._entries[stored.model_id] = _entry(stored, manifest)
        self._names = {
            name: target for name, target in store.names().items() if target in self._entries
        }

    def __iter__(self) -> Iterator[Entry]:
        """The entries in order of registration."""
        return iter(list(self._entries.values()))

    def get(self, name: str) -> Entry:
        """The entry of an id or plain name. Raises UnknownRecipe."""
        entry = self.find(name)
        if entry is None:
            raise UnknownRecipe(name)
        return entry

    def find(self, name: str) -> Entry | None:
        """The entry of an id or plain name, None if there is none."""
        return self._entries.get(self._names.get(name, name))

    def names(self) -> dict[str, str]:
        """What each plain name means."""
        return dict(self._names)

    def put(self, manifest: Manifest, base: Path | None, origin: str) -> tuple[Entry, bool]:
        """Register a checked manifest, or replace what its digest does not cover; is it new?"""
        known = self._entries.get(model_id(manifest))
        stored = StoredRecipe(
            model_id=model_id(manifest),
            manifest=dump_manifest(manifest),
            base=None if base is None else str(base),
            origin=origin,
            created=int(time.time()) if known is None else known.stored.created,
            is_pinned=known is not None and known.stored.is_pinned,
            is_wanted=known is not None and known.stored.is_wanted,
        )
        entry = _entry(stored, manifest) if known is None else known
        self._save(entry, stored)
        entry.manifest = manifest
        entry.num_registered += 1
        self._entries[stored.model_id] = entry
        if manifest.name not in self._names:
            self.point_name(entry)
        if known is None:
            self.tell(entry)
        return entry, known is None

    def mark(
        self, entry: Entry, *, is_pinned: bool | None = None, is_wanted: bool | None = None
    ) -> None:
        """Change what is remembered of a recipe; None leaves a mark as it is. Raises StateError."""
        old = entry.stored
        pinned = old.is_pinned if is_pinned is None else is_pinned
        wanted = old.is_wanted if is_wanted is None else is_wanted
        if (pinned, wanted) != (old.is_pinned, old.is_wanted):
            fields = {**vars(old), "is_pinned": pinned, "is_wanted": wanted}
            self._save(entry, StoredRecipe(**fields))

    def want(self, entry: Entry, *, is_wanted: bool) -> None:
        """Remember whether to load it after a restart; not worth failing for what needs it now."""
        with contextlib.suppress(StateError):  # the store has logged it
            self.mark(entry, is_wanted=is_wanted)

    def point_name(self, entry: Entry) -> None:
        """Let the recipe's plain name mean this version."""
        name = entry.manifest.name
        if self._names.get(name) != entry.model_id:
            self._store.save_name(name, entry.model_id)
            self._names[name] = entry.model_id
            self._events.publish("recipe", entry.model_id, state=str(entry.state), name=name)

    def set_state(self, entry: Entry, state: RecipeState, reason: str | None = None) -> None:
        """Move an entry on and tell about it."""
        entry.state, entry.reason = state, reason
        if state is RecipeState.FAILED:
            entry.num_failures, entry.failed_at = entry.num_failures + 1, time.monotonic()
        elif state is RecipeState.READY:
            entry.num_failures = 0
        self.tell(entry)

    def tell(self, entry: Entry, **data: object) -> None:
        """Publish the entry's state, with `data` beside it."""
        reason = {} if entry.reason is None else {"reason": entry.reason}
        self._events.publish("recipe", entry.model_id, state=str(entry.state), **reason, **data)

    def delete(self, entry: Entry) -> None:
        """Forget a recipe; its plain name goes to the newest other version, a ready one first.

        Raises UnknownRecipe if that has been done, and StateError.
        """
        if self._entries.get(entry.model_id) is not entry:
            raise UnknownRecipe(entry.model_id)
        name = entry.manifest.name
        others = [each for each in self if each.manifest.name == name and each is not entry]
        ready = [each for each in others if each.state is RecipeState.READY]
        heir = next(reversed(ready or others), None)
        self._store.delete_recipe(entry.model_id, None if heir is None else heir.model_id)
        del self._entries[entry.model_id]
        self._events.publish("recipe", entry.model_id, state="deleted")
        if self._names.get(name) != entry.model_id:
            return
        del self._names[name]
        if heir is not None:
            self._names[name] = heir.model_id
            self._events.publish("recipe", heir.model_id, state=str(heir.state), name=name)

    def _save(self, entry: Entry, stored: StoredRecipe) -> None:
        self._store.save_recipe(stored)
        entry.stored = stored


def _entry(stored: StoredRecipe, manifest: Manifest) -> Entry:
    entry = Entry(stored, manifest)
    entry.no_holds.set()
    return entry
