"""The seam between the API and an engine: token ids in, a stream of token events out."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from evoserve.sources.recipe import Recipe


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.

    logprobs: how many of the most likely tokens to report beside the chosen one (None: nothing);
    prompt_logprobs: the same for every prompt token; seed: of this request alone, None uses the
    engine's stream; stop_token_ids end the sequence like the model's own end tokens do, which
    `ignore_eos` switches off; a stop token is reported in the last event.
    """

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """One sequence to generate; `request_id` is unique among those in flight."""

    request_id: str
    model_id: str
    prompt_token_ids: Sequence[int]
    params: SamplingParams


@dataclass(frozen=True)
class TokenLogprobs:
    """Log-probability (natural log, of the model's own distribution) of a token and of the top."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One generated token; the last event of a stream has a finish_reason.

    token_id is None when the stream ends without a further token (max_tokens 0, abort, error).
    prompt_logprobs comes with the first event, None for the first prompt token.
    """

    token_id: int | None
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    error: str | None = None


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
    """Load of one recipe now."""

    model_id: str
    num_running: int
    num_waiting: int
    num_blocks: int
    num_free_blocks: int
    num_cached_blocks: int


@dataclass(frozen=True)
class EngineStats:
    """Counters since start and gauges now; tokens are counted over all recipes."""

    models: tuple[ModelStats, ...]
    num_prompt_tokens: int
    num_cached_prompt_tokens: int
    num_generated_tokens: int
    num_preemptions: int
    num_steps: int
    weight_bytes: int


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
