"""What crosses the engine's border: a request of token ids in, token events out. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class TokenCursor(Protocol):
    """Where one sequence stands in a grammar; `evoserve.engine.grammar` has the real one.

    param: the request's field that the grammar is of.
    """

    param: str

    def allowed(self, token_ids: Sequence[int]) -> bytes:
        """One bit per token id, the lowest first: may it follow `token_ids`? Ids beyond may not.

        token_ids: prompt and generated tokens; from call to call they grow and never change.
        Raises EngineError if what was generated is not of the grammar, RequestError if that needs
        more than is allowed to one.
        """
        ...


class TokenGrammar(Protocol):
    """What the tokens of a sequence must spell."""

    def start(self, num_prompt_tokens: int) -> TokenCursor:
        """A cursor before the first token that follows the prompt."""
        ...


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens. temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off.

    logprobs: how many of the most likely tokens to report beside the chosen one (None: nothing);
    prompt_logprobs: the same for every prompt token; seed: of this request alone, None uses the
    engine's stream; stop_token_ids end the sequence, and so do the model's own end tokens unless
    `ignore_eos`; a stop token is reported in the last event; before min_tokens none is chosen;
    grammar: what the generated tokens must spell, None for anything.
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
    grammar: TokenGrammar | None = None


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
    prompt_logprobs comes with the first event, None for the first prompt token; culprit: the
    request's field that is to blame for the error, None if the engine is; queued_s: how long the
    sequence waited until it was first admitted.
    """

    token_id: int | None
    finish_reason: FinishReason | None = None
    logprobs: TokenLogprobs | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    error: str | None = None
    culprit: str | None = None
    queued_s: float = field(default=0.0, compare=False)
