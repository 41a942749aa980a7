"""Moves recipes into memory and out of it, one at a time, within one budget."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from evoserve.config import Settings
from evoserve.engine.protocol import Engine, FinishReason, GenerationRequest, SamplingParams
from evoserve.errors import (
    CapacityError,
    ConflictError,
    EngineError,
    EvoServeError,
    SourceError,
    UnknownModel,
    UnknownRecipe,
)
from evoserve.lifecycle.book import Entry, Progress, RecipeBook, RecipeState
from evoserve.lifecycle.footprint import Footprint, predict
from evoserve.lifecycle.progress import ReadCounter, counted
from evoserve.lifecycle.room import Room
from evoserve.lifecycle.served import Registry, ServedRecipe, Tokenizers, describe
from evoserve.lifecycle.stamps import change_warnings, source_stamps
from evoserve.manifest.schema import Manifest
from evoserve.sources.locate import build_locator
from evoserve.sources.recipe import Recipe
from evoserve.sources.resolve import resolve_recipe

POLL_S = 0.05  # how often room is looked for while recipes are in use
REPORT_S = 0.25

_LOG = logging.getLogger(__name__)

_Given = ParamSpec("_Given")
_Value = TypeVar("_Value")


class Loader:
    """Loads and unloads entries; everything but reading and building runs in the event loop."""

    def __init__(
        self, settings: Settings, engine: Engine, registry: Registry, book: RecipeBook
    ) -> None:
        """Loads nothing."""
        self._settings = settings
        self._engine = engine
        self._registry = registry
        self._book = book
        self._room = Room(settings.memory_bytes, engine, book)
        self._turn = asyncio.Lock()
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._keep: dict[str, set[str]] = {}
        self._unloads: dict[str, asyncio.Task[None]] = {}
        self._tokenizers = Tokenizers()
        # Of normal priority: it holds the interpreter most of the time, and others wait for that.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="evoserve-check")

    async def open(
        self, manifest: Manifest, base: Path | None, *, verify: bool = True
    ) -> tuple[Recipe, Footprint]:
        """Resolve the sources, check digests, predict memory; builds nothing.

        Raises SourceError, UnsupportedModel and IncompatibleSources.
        """
        return await self._in_thread(_open, manifest, base, self._settings, verify)

    async def load(self, entry: Entry, keep: Collection[str] = ()) -> None:
        """Have the entry ready: built, warmed up, served under its id. Callers share one build.

        keep: model ids that may not be unloaded to make room. A cancelled caller does not stop the
        build. Raises InputError subclasses, ConflictError if it can never fit, CapacityError if
        there is no room in time, UnknownRecipe if it was deleted; whatever fails, what is served is
        untouched.
        """
        if entry.state is RecipeState.READY:
            return
        self._check_known(entry)
        kept = self._keep.setdefault(entry.model_id, {entry.model_id})
        kept.update(keep)
        task = self._loads.get(entry.model_id)
        if task is None:
            if entry.model_id not in self._unloads:
                self._book.set_state(entry, RecipeState.QUEUED)
            task = asyncio.create_task(self._load(entry, kept))
            self._loads[entry.model_id] = task
            task.add_done_callback(lambda done: self._forget(entry, done))
        await asyncio.shield(task)

    async def unload(self, entry: Entry, *, drain: bool = True) -> None:
        """Take no new requests, let running ones end (or abort them), free the memory."""
        task = self._unloads.get(entry.model_id)
        if task is None:
            if entry.state is not RecipeState.READY:
                return
            self._registry.remove(entry.model_id)
            self._book.set_state(entry, RecipeState.DRAINING)
            task = asyncio.create_task(self._unload(entry, drain=drain))
            self._unloads[entry.model_id] = task
        elif not drain:
            await self._engine.unload(entry.model_id, drain=False)
        await asyncio.shield(task)

    def is_idle(self, entry: Entry) -> bool:
        """Does no request use the recipe, or is about to?"""
        return self._room.is_idle(entry)

    async def stamp(self, recipe: Recipe) -> Mapping[str, str]:
        """The stamps of its sources as they are now."""
        return await self._in_thread(source_stamps, recipe)

    async def renew(self, entry: Entry, recipe: Recipe) -> None:
        """Serve a loaded entry by its manifest of now: template and defaults may have changed."""
        if entry.state is RecipeState.READY and entry.info is not None:
            served = await self._in_thread(describe, recipe, entry.info, self._tokenizers)
            if entry.state is RecipeState.READY:
                self._registry.add(served)

    async def close(self) -> None:
        """Wait for nothing, start nothing more; a build under way ends before its next tensor."""
        for entry in self._book:
            if entry.progress is not None:
                entry.progress.counter.stop()
        for task in (*self._loads.values(), *self._unloads.values()):
            task.cancel()
        await asyncio.gather(*self._loads.values(), *self._unloads.values(), return_exceptions=True)
        self._reader.shutdown(wait=False, cancel_futures=True)

    async def _load(self, entry: Entry, keep: Collection[str]) -> None:
        if entry.model_id in self._unloads:
            await asyncio.shield(self._unloads[entry.model_id])
            self._check_known(entry)  # the unloading may have been that of a deletion
            self._book.set_state(entry, RecipeState.QUEUED)
        try:
            await self._build_in_turn(entry, keep)
        except (CapacityError, ConflictError) as error:  # nothing is wrong with the recipe
            self._book.set_state(entry, RecipeState.REGISTERED, str(error))
            raise
        except EvoServeError as error:
            self._book.set_state(entry, RecipeState.FAILED, str(error))
            raise
        except asyncio.CancelledError:
            self._book.set_state(entry, RecipeState.REGISTERED)
            raise
        except BaseException as error:
            name = type(error).__name__
            self._book.set_state(entry, RecipeState.FAILED, f"{name}; the log says more")
            raise
        entry.last_used = time.monotonic()
        self._book.set_state(entry, RecipeState.READY)

    async def _build_in_turn(self, entry: Entry, keep: Collection[str]) -> None:
        """Build once there is room; while there is none, others that fit have their turn."""
        async with self._turn:
            recipe, footprint = await self.open(entry.manifest, entry.base)
            entry.footprint, entry.warnings = footprint, recipe.warnings
            now = await self.stamp(recipe)
            entry.stamps = now if entry.stamps is None else entry.stamps
            changed = change_warnings(entry.stamps, now)
            for warning in changed:
                _LOG.warning("recipe %s: %s", entry.model_id, warning)
            entry.warnings += changed
        end: float | None = None
        while True:
            async with self._turn:
                missing = await self._make_room(entry, footprint, keep)
                if missing <= 0:
                    self._book.set_state(entry, RecipeState.BUILDING)
                    self._registry.add(await self._build(entry, recipe, footprint))
                    return
            end = time.monotonic() + self._settings.load_timeout_s if end is None else end
            if time.monotonic() >= end:
                raise CapacityError(
                    f"recipe '{entry.model_id}' needs {missing} bytes more than memory_bytes "
                    f"{self._settings.memory_bytes} leave, and all that could be unloaded is in "
                    "use; try again later"
                )
            await asyncio.sleep(POLL_S)

    async def _build(self, entry: Entry, recipe: Recipe, footprint: Footprint) -> ServedRecipe:
        counter = ReadCounter()
        missing = footprint.new_parts(self._room.held(entry))
        total = sum(part.read_bytes for part in missing)
        entry.progress = Progress(counter, total, time.monotonic())
        reporting = asyncio.create_task(self._report(entry, entry.progress))
        try:
            entry.info = await self._engine.load(counted(recipe, counter))
            try:
                served = await self._in_thread(describe, recipe, entry.info, self._tokenizers)
                await _warm_up(self._engine, served)
            except BaseException:
                entry.info = None
                await self._engine.unload(entry.model_id, drain=False)
                raise
        finally:
            entry.progress = None
            reporting.cancel()
        return served

    async def _report(self, entry: Entry, progress: Progress) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            read, total = progress.read_bytes, progress.total_bytes
            self._book.tell(entry, read_bytes=read, total_bytes=total)

    async def _unload(self, entry: Entry, *, drain: bool) -> None:
        try:
            if drain:
                await entry.no_holds.wait()
            with contextlib.suppress(UnknownModel):  # draining was turned into aborting meanwhile
                await self._engine.unload(entry.model_id, drain=drain)
        finally:
            self._unloads.pop(entry.model_id, None)
            entry.info = None
            self._book.set_state(entry, RecipeState.REGISTERED)

    async def _make_room(self, entry: Entry, footprint: Footprint, keep: Collection[str]) -> int:
        """Unload recipes that are not in use until `entry` fits; the bytes missing all the same."""
        self._room.check(entry, footprint, keep)
        while (missing := self._room.missing(entry, footprint)) > 0:
            victim = self._room.victim(footprint, keep)
            if victim is None:
                break
            self._book.want(victim, is_wanted=False)
            self._book.tell(victim, evicted_for=entry.model_id)
            await self.unload(victim)
        return missing

    def _check_known(self, entry: Entry) -> None:
        if self._book.find(entry.model_id) is not entry:
            raise UnknownRecipe(entry.model_id)

    def _forget(self, entry: Entry, task: asyncio.Task[None]) -> None:
        del self._loads[entry.model_id], self._keep[entry.model_id]
        if not task.cancelled():
            task.exception()  # its callers raise it; if all have left, the entry tells

    async def _in_thread(
        self, function: Callable[_Given, _Value], *args: _Given.args, **kwargs: _Given.kwargs
    ) -> _Value:
        def call() -> _Value:
            return function(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._reader, call)


def _open(
    manifest: Manifest, base: Path | None, settings: Settings, verify: bool
) -> tuple[Recipe, Footprint]:
    locator = build_locator(settings, base)
    recipe = resolve_recipe(manifest, locator, verify=verify and settings.verify_digests)
    return recipe, predict(recipe, settings)


async def _warm_up(engine: Engine, served: ServedRecipe) -> None:
    """One greedy token, so that a recipe that cannot generate is never served.

    Raises SourceError if the model computes nonsense, EngineError if the engine has stopped.
    """
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    prompt = served.tokenizer.encode("1", False)[:1] or [0]
    request = GenerationRequest(f"warm-up-{uuid.uuid4().hex}", served.model_id, prompt, params)
    async for event in engine.submit(request):
        if event.finish_reason is FinishReason.ERROR:
            raise SourceError(f"recipe '{served.model_id}' cannot generate: {event.error}")
        if event.finish_reason is FinishReason.ABORT:
            raise EngineError("the engine stopped during the warm-up")
