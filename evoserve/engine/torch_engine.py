"""The embedded engine: an async front, a worker thread that steps, a builder thread that builds."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from evoserve.config import Settings
from evoserve.engine.admission import check_request, stop_ids
from evoserve.engine.core import EngineCore
from evoserve.engine.factory import ModelFactory, PathModelFactory, num_threads
from evoserve.engine.priority import lower_priority
from evoserve.engine.protocol import EngineStats, ModelInfo
from evoserve.engine.request import FinishReason, GenerationRequest, TokenEvent
from evoserve.engine.runtime import RecipeRuntime, build_runtime
from evoserve.engine.scheduler import Counters, Event
from evoserve.engine.sequence import Sequence as Generation
from evoserve.engine.stream import Inbox, TokenStream
from evoserve.engine.worker import DEATH, Worker
from evoserve.errors import CapacityError, EngineError, RequestError, UnknownModel
from evoserve.sources.recipe import Recipe


@dataclass(eq=False)
class _Loaded:
    """num_in_flight: its open streams; unloading: set once it takes no new work.

    gone: set when the worker has dropped the runtime, or is gone itself.
    """

    runtime: RecipeRuntime
    gone: asyncio.Event
    num_in_flight: int = 0
    unloading: asyncio.Task[None] | None = None


@dataclass(frozen=True)
class _Flight:
    request_id: str
    loaded: _Loaded
    inbox: Inbox[TokenEvent]


class TorchEngine:
    """Implements `evoserve.engine.protocol.Engine`; its state is touched in the event loop only.

    `load` starts the threads, in the event loop that it is called from.
    """

    def __init__(self, settings: Settings, models: ModelFactory | None = None) -> None:
        """Loads nothing. Raises ConfigError for a device that is not there."""
        self._settings = settings
        self._models = PathModelFactory(settings) if models is None else models
        self._counters = Counters()
        self._builder = ThreadPoolExecutor(
            1, thread_name_prefix="evoserve-build", initializer=lower_priority
        )
        self._worker: Worker | None = None
        self._is_closed = False
        self._has_died = False
        self._loaded: dict[str, _Loaded] = {}
        self._loading: dict[str, asyncio.Task[ModelInfo]] = {}
        self._flights: dict[int, _Flight] = {}
        self._tickets: dict[str, int] = {}
        self._last_ticket = 0

    def submit(self, request: GenerationRequest) -> TokenStream:
        """Stream the tokens of one sequence; closing the stream early aborts it.

        Raises UnknownModel, ContextLengthError, RequestError and CapacityError at once.
        """
        worker = self._running_worker(request.model_id)
        loaded = self._open_recipe(request.model_id)
        check_request(request, loaded.runtime.limits)
        self._check_queue(request, loaded)
        self._last_ticket += 1
        ticket = self._last_ticket
        sequence = self._sequence(request, ticket, loaded.runtime)
        stream = TokenStream(lambda: self._leave(ticket))
        self._flights[ticket] = _Flight(request.request_id, loaded, stream.inbox)
        self._tickets[request.request_id] = ticket
        loaded.num_in_flight += 1
        worker.post(lambda core: core.submit(request.model_id, sequence))
        return stream

    def abort(self, request_id: str) -> None:
        """End a sequence and free its blocks; its stream ends with FinishReason.ABORT."""
        ticket = self._tickets.get(request_id)
        if ticket is not None:
            self._post_abort(ticket)

    async def load(self, recipe: Recipe) -> ModelInfo:
        """Build the recipe beside what runs; it is served once this returns. Idempotent.

        Callers that ask for the same recipe at the same time share one build, which goes on if
        one of them is cancelled. Raises InputError subclasses and CapacityError.
        """
        self._check_open()
        model_id = recipe.model_id
        while (loaded := self._loaded.get(model_id)) is not None:
            if loaded.unloading is None:
                return loaded.runtime.info
            await asyncio.shield(loaded.unloading)
        self._check_open()
        task = self._loading.get(model_id)
        if task is None:
            task = asyncio.create_task(self._load(recipe))
            self._loading[model_id] = task
            task.add_done_callback(lambda _: self._loading.pop(model_id))
        return await asyncio.shield(task)

    async def unload(self, model_id: str, *, drain: bool = True) -> None:
        """Refuse new work for the recipe, let its sequences end (or abort them), free it.

        Raises UnknownModel. A second call may turn draining into aborting.
        """
        self._check_open()
        loaded = self._loaded.get(model_id)
        if loaded is None or self._worker is None:
            raise UnknownModel(model_id)
        if loaded.unloading is None:
            loop, gone = asyncio.get_running_loop(), loaded.gone
            self._worker.post(lambda core: core.detach(model_id, lambda: _call_in(loop, gone.set)))
            loaded.unloading = asyncio.create_task(self._unload(model_id, loaded))
        if not drain:
            self._worker.post(lambda core: core.abort_model(model_id))
        await asyncio.shield(loaded.unloading)

    def models(self) -> Sequence[ModelInfo]:
        """The recipes that take work, in order of loading."""
        return [one.runtime.info for one in self._loaded.values() if one.unloading is None]

    def stats(self) -> EngineStats:
        """A snapshot; recipes that drain are in it, too."""
        counters = self._counters
        return EngineStats(
            models=tuple(one.runtime.stats for one in self._loaded.values()),
            num_prompt_tokens=counters.num_prompt_tokens,
            num_cached_prompt_tokens=counters.num_cached_prompt_tokens,
            num_generated_tokens=counters.num_generated_tokens,
            num_preemptions=counters.num_preemptions,
            num_steps=counters.num_steps,
            weight_bytes=self._models.num_bytes,
            stalled_s=0.0 if self._worker is None else self._worker.stalled_s,
        )

    async def close(self) -> None:
        """Abort everything, free all recipes and stop; waits for a build that is under way."""
        self._is_closed = True
        if self._worker is not None:
            self._worker.stop()
            await asyncio.to_thread(self._worker.join)
        unloading = [one.unloading for one in self._loaded.values() if one.unloading is not None]
        await asyncio.gather(*self._loading.values(), *unloading, return_exceptions=True)
        while self._loaded:
            _, loaded = self._loaded.popitem()
            loaded.runtime.lease.release()
        self._builder.shutdown(wait=False)

    async def _load(self, recipe: Recipe) -> ModelInfo:
        loop = asyncio.get_running_loop()
        worker = self._worker or self._start_worker(loop)
        runtime = await loop.run_in_executor(
            self._builder, build_runtime, recipe, self._models, self._settings, self._counters
        )
        if self._is_closed:
            runtime.lease.release()
            raise EngineError("the engine was closed while the recipe was built")
        worker.post(lambda core: core.attach(runtime))
        self._loaded[recipe.model_id] = _Loaded(runtime, asyncio.Event())
        return runtime.info

    async def _unload(self, model_id: str, loaded: _Loaded) -> None:
        await loaded.gone.wait()
        self._loaded.pop(model_id, None)
        loaded.runtime.lease.release()

    def _start_worker(self, loop: asyncio.AbstractEventLoop) -> Worker:
        self._worker = Worker(
            EngineCore(self._counters),
            loop,
            self._deliver,
            self._end_all,
            num_threads=num_threads(self._settings),
        )
        return self._worker

    def _running_worker(self, model_id: str) -> Worker:
        if self._has_died:
            raise CapacityError(f"{DEATH}; send the request to another server")
        self._check_open()
        if self._worker is None:
            raise UnknownModel(model_id)
        return self._worker

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError("the engine is closed")

    def _open_recipe(self, model_id: str) -> _Loaded:
        loaded = self._loaded.get(model_id)
        if loaded is None or loaded.unloading is not None:
            raise UnknownModel(model_id)
        return loaded

    def _check_queue(self, request: GenerationRequest, loaded: _Loaded) -> None:
        if request.request_id in self._tickets:
            raise RequestError(
                f"request id '{request.request_id}' is in flight already", param="request_id"
            )
        max_queue = self._settings.max_queue
        if loaded.num_in_flight >= loaded.runtime.scheduler.max_num_seqs + max_queue:
            raise CapacityError(
                f"{loaded.num_in_flight} requests for '{request.model_id}' run or wait, no more "
                f"than max_queue {max_queue} may wait; try again later"
            )

    def _sequence(
        self, request: GenerationRequest, ticket: int, runtime: RecipeRuntime
    ) -> Generation:
        seed = request.params.seed
        return Generation(
            ticket=ticket,
            prompt=tuple(request.prompt_token_ids),
            params=request.params,
            seed=_stream_seed(self._settings.seed, ticket) if seed is None else seed,
            stop_ids=stop_ids(request.params, runtime.limits),
        )

    def _deliver(self, events: list[Event]) -> None:
        for ticket, event in events:
            flight = self._flights.get(ticket)
            if flight is None:
                continue
            flight.inbox.put(event)
            if event.finish_reason is not None:
                self._forget(ticket)

    def _leave(self, ticket: int) -> None:
        """The reader is gone: nobody waits for the events any more."""
        if ticket in self._flights:
            self._post_abort(ticket)
            self._forget(ticket)

    def _post_abort(self, ticket: int) -> None:
        model_id = self._flights[ticket].loaded.runtime.info.model_id
        if self._worker is not None:
            self._worker.post(lambda core: core.abort(model_id, ticket))

    def _forget(self, ticket: int) -> None:
        flight = self._flights.pop(ticket)
        flight.loaded.num_in_flight -= 1
        del self._tickets[flight.request_id]

    def _end_all(self) -> None:
        """The worker is gone; readers it left without a last event must not wait for ever."""
        self._has_died = not self._is_closed
        reason = FinishReason.ERROR if self._has_died else FinishReason.ABORT
        error = DEATH if self._has_died else None
        self._deliver([(ticket, TokenEvent(None, reason, error=error)) for ticket in self._flights])
        self._is_closed = True
        for loaded in self._loaded.values():
            loaded.gone.set()


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    """Run in the loop's thread; in a closed loop there is nobody left to tell."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def _stream_seed(seed: int, ticket: int) -> int:
    """The engine's stream: one 64-bit seed per request in order of submission."""
    digest = hashlib.blake2b(f"{seed}:{ticket}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
