"""The engine's step, over all loaded recipes in turn. Used from one thread only."""

import logging
from collections.abc import Callable, Sequence

from evoserve.engine.runtime import RecipeRuntime
from evoserve.engine.sampler import sample
from evoserve.engine.scheduler import Counters, Event
from evoserve.engine.sequence import Chunk
from evoserve.engine.sequence import Sequence as Generation
from evoserve.errors import EngineError

_LOG = logging.getLogger(__name__)


class EngineCore:
    """Recipes by model id; each step works for the next one that has something to do."""

    def __init__(self, counters: Counters) -> None:
        """Nothing is loaded."""
        self._counters = counters
        self._runtimes: dict[str, RecipeRuntime] = {}
        self._leaving: dict[str, Callable[[], None]] = {}

    @property
    def has_work(self) -> bool:
        """Would a step do anything?"""
        return any(runtime.scheduler.has_work for runtime in self._runtimes.values())

    def attach(self, runtime: RecipeRuntime) -> list[Event]:
        """Serve a recipe from the next step on."""
        self._runtimes[runtime.info.model_id] = runtime
        return []

    def detach(self, model_id: str, on_gone: Callable[[], None]) -> list[Event]:
        """Drop a recipe, and call `on_gone`, once its last sequence has ended."""
        self._leaving[model_id] = on_gone
        self._drop_drained()
        return []

    def submit(self, model_id: str, sequence: Generation) -> list[Event]:
        """Queue a sequence of a recipe that is attached."""
        self._runtimes[model_id].scheduler.submit(sequence)
        return []

    def abort(self, model_id: str, ticket: int) -> list[Event]:
        """End a sequence, if it has not ended."""
        runtime = self._runtimes.get(model_id)
        return [] if runtime is None else self._drained(runtime.scheduler.abort(ticket))

    def abort_model(self, model_id: str) -> list[Event]:
        """End every sequence of a recipe."""
        runtime = self._runtimes.get(model_id)
        return [] if runtime is None else self._drained(runtime.scheduler.abort_all())

    def abort_all(self) -> list[Event]:
        """End every sequence."""
        return [event for model_id in list(self._runtimes) for event in self.abort_model(model_id)]

    def fail_all(self, message: str) -> list[Event]:
        """End every sequence with an error."""
        runtimes = self._runtimes.values()
        events = [event for each in runtimes for event in each.scheduler.fail_all(message)]
        return self._drained(events)

    def step(self) -> list[Event]:
        """One forward pass of one recipe; whatever raises ends that batch and nothing else."""
        runtime = self._next()
        if runtime is None:
            return []
        chunks: Sequence[Chunk] = ()
        self._counters.num_steps += 1
        try:
            chunks = runtime.scheduler.schedule()
            if not chunks:
                raise EngineError("nothing could be scheduled although sequences wait")
            logits = runtime.runner.forward(chunks)
            samples = sample(chunks, logits)
            events = runtime.scheduler.commit(chunks, samples)
        except Exception as error:
            events = _contain(runtime, chunks, error)
        return self._drained(events)

    def _next(self) -> RecipeRuntime | None:
        """The least recently served recipe with work; it goes to the end of the order."""
        for model_id, runtime in self._runtimes.items():
            if runtime.scheduler.has_work:
                self._runtimes[model_id] = self._runtimes.pop(model_id)
                return runtime
        return None

    def _drained(self, events: list[Event]) -> list[Event]:
        self._drop_drained()
        return events

    def _drop_drained(self) -> None:
        for model_id in list(self._leaving):
            if not self._runtimes[model_id].scheduler.has_work:
                del self._runtimes[model_id]
                self._leaving.pop(model_id)()


def _contain(runtime: RecipeRuntime, chunks: Sequence[Chunk], error: Exception) -> list[Event]:
    """End the sequences of a step that raised; with no chunks, all of the recipe's."""
    _LOG.exception("a step of %s failed", runtime.info.model_id)
    message = f"the engine failed in this step: {type(error).__name__}: {error}"
    if chunks:
        return runtime.scheduler.fail(chunks, message)
    return runtime.scheduler.fail_all(message)
