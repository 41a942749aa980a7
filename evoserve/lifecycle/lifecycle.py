"""The life of recipes on a server: registered, loaded, named, swapped under load, unloaded."""

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from evoserve.config import Settings
from evoserve.engine.protocol import Engine
from evoserve.errors import (
    CapacityError,
    ConflictError,
    EvoServeError,
    InputError,
    UnknownModel,
    UnknownRecipe,
)
from evoserve.lifecycle.aliases import AliasBook, check_alias_name
from evoserve.lifecycle.book import Entry, RecipeBook, RecipeState
from evoserve.lifecycle.events import EventLog, Kind
from evoserve.lifecycle.loader import POLL_S, Loader
from evoserve.lifecycle.restore import heal, restore
from evoserve.lifecycle.served import Registry, ServedRecipe
from evoserve.lifecycle.split import Target, check_targets, choose
from evoserve.lifecycle.store import Action, AliasChange, StateStore
from evoserve.manifest.schema import Manifest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Named:
    """What a request may name: the recipe behind it, and the longest context of that one."""

    model_id: str
    created: int
    max_model_len: int


class Lifecycle:
    """One server's recipes and aliases over an engine; used in one event loop only.

    `registry` holds what is loaded, and may hold recipes that were put there by hand: those answer
    to their names, but are not managed.
    """

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        registry: Registry,
        store: StateStore | None = None,
        *,
        rng: random.Random | None = None,
    ) -> None:
        """Knows what `store` knows and loads nothing; None remembers nothing beyond this object.

        rng: draws the target of a request that has no key of its own.
        """
        self._settings = settings
        self._registry = registry
        self._store = StateStore() if store is None else store
        self._rng = random.Random() if rng is None else rng
        self.events = EventLog()
        self.recipes = RecipeBook(self._store, self.events)
        self.aliases = AliasBook(self._store, self.events)
        self._loader = Loader(settings, engine, registry, self.recipes)
        self._changing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._background: set[asyncio.Task[None]] = set()
        self._num_waiting = 0
        self.is_starting = False

    @contextmanager
    def starting(self) -> Iterator[None]:
        """While recipes are loaded that requests may name before they are known."""
        self.is_starting = True
        try:
            yield
        finally:
            self.is_starting = False

    async def restore(self) -> None:
        """Check the stored recipes and load those that were loaded when they were last seen.

        What has been loaded since is left alone. A recipe that cannot be loaded any more is marked
        as failed and tried again now and then; the others are not touched.
        """
        for entry in self.recipes:
            if entry.state is RecipeState.REGISTERED:
                await restore(self.recipes, self._loader, entry)
        for entry in self.recipes:
            if entry.state is RecipeState.FAILED:
                self.start("recipe", entry.model_id, heal(self.recipes, self._loader, entry))

    async def register(
        self, manifest: Manifest, *, base: Path | None = None, origin: str = "api"
    ) -> tuple[Entry, bool]:
        """Check a manifest against its sources and remember it; is it new? Nothing is built.

        base: the folder that relative sources count from. Registering again replaces what the
        digest does not cover (description, template, defaults). Raises SourceError,
        UnsupportedModel and IncompatibleSources.
        """
        recipe, footprint = await self._loader.open(manifest, base)
        entry, is_new = self.recipes.put(manifest, base, origin)
        entry.footprint, entry.warnings = footprint, recipe.warnings
        entry.stamps = await self._loader.stamp(recipe)
        await self._loader.renew(entry, recipe)
        return entry, is_new

    async def follow(self, manifest: Manifest, file: Path, kind: str) -> Entry:
        """Register and load what a file holds now, then forget what it held before.

        A recipe that was in the file and that an alias leads to is kept. Raises what registering
        and loading raise, and then everything is as before.
        """
        origin = f"{kind}:{file}"
        entry, _ = await self.register(manifest, base=file.parent, origin=origin)
        await self.load(entry.model_id)
        for other in self.recipes:
            if other is not entry and other.stored.origin == origin:
                with contextlib.suppress(ConflictError):
                    await self.delete(other.model_id)
        return entry

    async def load(self, name: str) -> Entry:
        """Have a recipe ready and let its plain name mean it. Raises what `Loader.load` raises."""
        entry = self.recipes.get(name)
        await self._loader.load(entry)
        self.recipes.want(entry, is_wanted=True)
        self.recipes.point_name(entry)
        return entry

    async def unload(self, name: str, *, drain: bool = True) -> Entry:
        """Free a recipe's memory once its requests have ended; a later request loads it again.

        Raises UnknownRecipe, and ConflictError while it is being built.
        """
        entry = self.recipes.get(name)
        self._check_not_building(entry)
        self.recipes.want(entry, is_wanted=False)
        await self._loader.unload(entry, drain=drain)
        return entry

    def pin(self, name: str, *, is_pinned: bool = True) -> Entry:
        """Keep a recipe from being unloaded to make room, or let it be. Raises UnknownRecipe."""
        entry = self.recipes.get(name)
        self.recipes.mark(entry, is_pinned=is_pinned)
        self.recipes.tell(entry, is_pinned=is_pinned)
        return entry

    async def delete(self, name: str) -> None:
        """Unload and forget.

        Raises UnknownRecipe, and ConflictError while it is aliased or being built, or if it was
        registered again while it was unloaded.
        """
        entry = self.recipes.get(name)
        self._check_unused(entry)
        num_registered = entry.num_registered
        await self.unload(entry.model_id)
        if entry.num_registered != num_registered:
            raise ConflictError(f"recipe '{entry.model_id}' was registered again; it is kept")
        self._check_unused(entry)
        self._check_not_building(entry)
        self.recipes.delete(entry)

    async def set_alias(
        self, name: str, targets: Sequence[Target], *, action: Action = "set", retire: bool = False
    ) -> AliasChange:
        """Point an alias at recipes, all of them loaded and warm before it moves.

        What it points to now is kept in memory until then, and serves on if anything fails.
        retire: unload what no alias leads to any more, once it is idle. Raises RequestError,
        UnknownRecipe and what loading raises.
        """
        resolved = self.resolve_targets(name, targets)
        entries = [self.recipes.get(target.model_id) for target in resolved]
        async with self._changing[name]:
            before = self.aliases.find(name)
            old = () if before is None else tuple(each.model_id for each in before.targets)
            keep = {*old, *(entry.model_id for entry in entries)}
            for entry in entries:
                await self._loader.load(entry, keep)
                self.recipes.want(entry, is_wanted=True)
            self._check_registered(entries)
            change = self.aliases.change(name, action, resolved)
        if retire:
            self._retire(old)
        return change

    def resolve_targets(self, name: str, targets: Sequence[Target]) -> list[Target]:
        """The targets by full id, if alias `name` may have them.

        Raises RequestError and UnknownRecipe.
        """
        check_alias_name(name)
        check_targets(targets)
        resolved = [
            Target(self.recipes.get(target.model_id).model_id, target.weight) for target in targets
        ]
        check_targets(resolved)
        return resolved

    async def rollback(
        self, name: str, version: int | None = None, *, retire: bool = False
    ) -> AliasChange:
        """Go back to a version of the alias, by default the one before the last change.

        A second call goes forth again. Raises UnknownRecipe, ConflictError, what loading raises.
        """
        goal = self.aliases.version_before(name, version)
        return await self.set_alias(name, goal.targets, action="rollback", retire=retire)

    def delete_alias(self, name: str) -> AliasChange:
        """Remove a name; its history stays. Raises UnknownRecipe."""
        self.aliases.get(name)
        return self.aliases.change(name, "delete", ())

    @asynccontextmanager
    async def hold(
        self, name: str | None, sticky: str | None = None
    ) -> AsyncIterator[ServedRecipe]:
        """The recipe that a request gets, which is not unloaded before the block is left.

        A registered recipe that is not loaded is loaded first. Raises UnknownModel, RequestError,
        and CapacityError if that takes too long or fails, or the name may become known.
        """
        entry, served = await self._find_loaded(name, sticky)
        if entry is None:
            yield served
            return
        entry.hold()
        try:
            yield served
        finally:
            entry.release()

    def names(self) -> dict[str, Named]:
        """Every id, plain name and alias that a request may send, and what it means now."""
        found = {
            name: Named(served.model_id, served.created, served.max_model_len)
            for name, served in self._registry.names().items()
        }
        managed = {entry.model_id: self._named(entry) for entry in self.recipes}
        found |= {name: each for name, each in managed.items() if each is not None}
        plain = self.recipes.names().items()
        found |= {name: found[target] for name, target in plain if target in found}
        for change in self.aliases.all():
            first = max(change.targets, key=lambda each: each.weight).model_id
            if first in found:
                found[change.alias] = found[first]
        ids = {name: each for name, each in found.items() if name == each.model_id}
        return {**ids, **found}

    def unknown(self, name: str) -> EvoServeError:
        """The error for a name that means nothing: not found, or not yet."""
        if self.is_starting:
            return CapacityError(f"'{name:.200}' is not known yet: the server loads its recipes")
        return UnknownModel(f"{name:.200}")

    def start(self, kind: Kind, subject: str, change: Coroutine[object, object, object]) -> None:
        """Make a change with nobody waiting for it; if it fails, an event says why."""
        task = asyncio.create_task(self._report_failure(kind, subject, change))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(lambda _: change.close())  # it never runs if that is cancelled first

    async def close(self) -> None:
        """Stop builds and drains that are under way and let go of the state file."""
        for task in self._background:
            task.cancel()
        await self._loader.close()
        self._store.close()

    async def _find_loaded(
        self, name: str | None, sticky: str | None
    ) -> tuple[Entry | None, ServedRecipe]:
        """The recipe of a request, loaded first if need be; without an entry if not managed."""
        while True:
            model_id = self._meaning(name, sticky)
            entry = None if model_id is None else self.recipes.find(model_id)
            if entry is None:
                return None, self._resolve(name)
            with contextlib.suppress(UnknownRecipe):  # deleted meanwhile: what does it mean now?
                while (served := self._registry.get(entry.model_id)) is None:
                    await self._load_for_request(entry)
                return entry, served

    def _resolve(self, name: str | None) -> ServedRecipe:
        """What was put into the registry by hand. Raises RequestError and what `unknown` gives."""
        try:
            return self._registry.resolve(name)
        except UnknownModel:
            raise self.unknown(name or "") from None

    def _meaning(self, name: str | None, sticky: str | None) -> str | None:
        """The id that a name leads to now; an alias comes before a recipe's plain name."""
        change = None if name is None else self.aliases.find(name)
        if change is not None:
            key = f"{self._rng.random()}" if sticky is None else f"key {sticky}"
            return choose(change.alias, change.targets, key)
        if name is None:
            ready = [each for each in self.recipes if each.state is RecipeState.READY]
            return ready[0].model_id if len(ready) == 1 else None
        return name

    async def _load_for_request(self, entry: Entry) -> None:
        if entry.retry_in_s > 0:
            raise _unavailable(entry)
        limit, timeout_s = self._settings.max_queue, self._settings.load_timeout_s
        if self._num_waiting >= limit:
            raise CapacityError(f"{limit} requests wait for recipes to be loaded; try again later")
        self._num_waiting += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._loader.load(entry)
        except TimeoutError:
            raise CapacityError(
                f"recipe '{entry.model_id}' was not loaded within {timeout_s:g} s; it may be soon"
            ) from None
        except UnknownRecipe:
            raise
        except InputError:
            raise _unavailable(entry) from None
        finally:
            self._num_waiting -= 1
        self.recipes.want(entry, is_wanted=True)

    def _named(self, entry: Entry) -> Named | None:
        served = self._registry.get(entry.model_id)
        if served is not None:
            return Named(served.model_id, served.created, served.max_model_len)
        if entry.retry_in_s > 0 or entry.footprint is None:
            return None
        longest = entry.footprint.max_model_len
        longest = min(longest, self._settings.max_model_len or longest)
        return Named(entry.model_id, entry.stored.created, longest)

    def _retire(self, model_ids: Sequence[str]) -> None:
        for model_id in model_ids:
            entry = self.recipes.find(model_id)
            if entry is None or entry.stored.is_pinned or self.aliases.leading_to(model_id):
                continue
            self.start("recipe", model_id, self._unload_once_idle(entry))

    async def _unload_once_idle(self, entry: Entry) -> None:
        """Not drained but waited for: if an alias leads to it again, it is simply kept."""
        while entry.state is RecipeState.READY and not self.aliases.leading_to(entry.model_id):
            if self._loader.is_idle(entry):
                await self.unload(entry.model_id)
                return
            await asyncio.sleep(POLL_S)

    async def _report_failure(
        self, kind: Kind, subject: str, change: Coroutine[object, object, object]
    ) -> None:
        try:
            await change
        except EvoServeError as error:
            _LOG.error("%s %s: %s", kind, subject, error)
            self.events.publish(kind, subject, error=str(error))
        except Exception as error:
            _LOG.exception("%s %s", kind, subject)
            self.events.publish(kind, subject, error=f"{type(error).__name__}; the log says more")

    def _check_unused(self, entry: Entry) -> None:
        names = self.aliases.leading_to(entry.model_id)
        if names:
            raise ConflictError(
                f"recipe '{entry.model_id}' is a target of alias '{', '.join(names)}'; point it "
                "elsewhere or delete it first"
            )

    def _check_not_building(self, entry: Entry) -> None:
        if entry.state in (RecipeState.QUEUED, RecipeState.BUILDING):
            raise ConflictError(
                f"recipe '{entry.model_id}' is {entry.state}; wait until it is ready"
            )

    def _check_registered(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            with contextlib.suppress(EvoServeError):
                if self.recipes.get(entry.model_id) is entry:
                    continue
            raise ConflictError(f"recipe '{entry.model_id}' was deleted meanwhile")


def _unavailable(entry: Entry) -> CapacityError:
    return CapacityError(
        f"Recipe '{entry.model_id}' cannot be served now; its operator finds the reason at "
        f"GET /v1/recipes/{entry.model_id}.",
        retry_after_s=entry.retry_in_s,
    )
