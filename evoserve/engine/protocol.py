"""The seam between the API and an engine: token ids in, a stream of token events out."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from evoserve.engine.request import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
    TokenGrammar,
    TokenLogprobs,
)
from evoserve.sources.recipe import Recipe

__all__ = [
    "Engine",
    "EngineStats",
    "FinishReason",
    "GenerationRequest",
    "ModelInfo",
    "ModelStats",
    "SamplingParams",
    "TokenEvent",
    "TokenGrammar",
    "TokenLogprobs",
]


@dataclass(frozen=True)
class ModelInfo:
    """A loaded recipe, as the API needs to know it. Sizes in bytes, times in seconds."""

    model_id: str
    max_model_len: int
    num_steps: int
    num_layers: int
    weight_bytes: int
    kv_cache_bytes: int
    build_s: float


@dataclass(frozen=True)
class ModelStats:
    """Load of one recipe now; preemptions since it was loaded."""

    model_id: str
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int
    num_preemptions: int


@dataclass(frozen=True)
class EngineStats:
    """Counters since start and gauges now; tokens are counted over all recipes.

    stalled_s: seconds since the engine last made progress while it had work; 0 when idle,
    infinite when its thread is gone.
    """

    models: tuple[ModelStats, ...]
    num_prompt_tokens: int
    num_cached_prompt_tokens: int
    num_generated_tokens: int
    num_preemptions: int
    num_steps: int
    weight_bytes: int
    stalled_s: float = 0.0


class Engine(Protocol):
    """Generates from loaded recipes. `tests/conformance` holds what every implementation passes.

    Every method may be called from the event loop only; none of them blocks it.
    """

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        """Stream the tokens of one sequence; closing the iterator early aborts it.

        Raises UnknownModel, ContextLengthError, RequestError and CapacityError at once.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a sequence and free its blocks; unknown ids are ignored (it may just have ended)."""
        ...

    async def load(self, recipe: Recipe) -> ModelInfo:
        """Build the recipe beside what runs; it is served once this returns. Idempotent.

        Raises InputError subclasses; whatever fails, running recipes are untouched.
        """
        ...

    async def unload(self, model_id: str, *, drain: bool = True) -> None:
        """Refuse new work for the recipe, let its sequences end (or abort them), free it."""
        ...

    def models(self) -> Sequence[ModelInfo]:
        """The loaded recipes, in order of loading."""
        ...

    def stats(self) -> EngineStats:
        """A snapshot that costs next to nothing."""
        ...

    async def close(self) -> None:
        """Abort everything and stop; the engine cannot be used again."""
        ...
