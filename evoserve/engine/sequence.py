"""One generation while it runs, and the slice of it that one step computes. No torch."""

import time
from collections.abc import Sequence as TokenIds
from dataclasses import dataclass, field
from enum import StrEnum

from evoserve.engine.block_manager import BlockTable
from evoserve.engine.request import FinishReason, SamplingParams, TokenCursor, TokenLogprobs


class Phase(StrEnum):
    """prefill computes known tokens, decode the one that was sampled last."""

    PREFILL = "prefill"
    DECODE = "decode"


class Status(StrEnum):
    """Where a sequence stands; a preempted one waits again."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(eq=False, slots=True)
class Sequence:
    """Prompt and generated tokens of one request, and how far their KV is computed.

    ticket: unique over the engine's life, unlike request ids; seed: 64 bits that the request's
    randomness is drawn from; stop_ids: every token that ends it; num_cached_tokens: prompt
    tokens found in the prefix cache when it was first admitted, None before;
    prompt_logprobs: those of the leading prompt tokens known so far, starting with None;
    queued_s: from its making until it was first admitted; grammar: where it stands in its
    request's grammar, None without one.
    """

    ticket: int
    prompt: TokenIds[int]
    params: SamplingParams
    seed: int
    stop_ids: frozenset[int]
    token_ids: list[int] = field(init=False)
    grammar: TokenCursor | None = field(init=False)
    table: BlockTable = field(default_factory=BlockTable)
    status: Status = Status.WAITING
    num_computed_tokens: int = 0
    num_cached_tokens: int | None = None
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=lambda: [None])
    finish_reason: FinishReason | None = None
    submitted_s: float = field(default_factory=time.perf_counter)
    queued_s: float = 0.0

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt)
        grammar = self.params.grammar
        self.grammar = None if grammar is None else grammar.start(len(self.prompt))

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt."""
        return len(self.prompt)

    @property
    def num_generated_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - len(self.prompt)

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens whose KV is still to be computed; the last one's logits give the next token."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def phase(self) -> Phase:
        """What the next step does for it."""
        return Phase.DECODE if self.num_uncomputed_tokens == 1 else Phase.PREFILL

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Are prompt logprobs wanted that no step has computed yet?"""
        wanted = self.params.prompt_logprobs is not None
        return wanted and len(self.prompt_logprobs) < self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + num_tokens) of a sequence: its part in one forward pass."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def stop(self) -> int:
        """Position after the last token of the chunk."""
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Does the chunk reach the last known token, so that its logits give the next one?"""
        return self.stop == len(self.sequence.token_ids)

    @property
    def num_logits(self) -> int:
        """For how many of its last tokens logits are wanted.

        One to sample from; with prompt logprobs, those of every token whose successor in the
        prompt has none yet (a recomputed chunk may hold some that do).
        """
        if self.sequence.lacks_prompt_logprobs:
            first = max(self.start, len(self.sequence.prompt_logprobs) - 1)
            return max(0, self.stop - first)
        return int(self.samples)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one forward pass gave a chunk: the next token if it samples, or why there is none.

    culprit: the request's field that is to blame for the error, None if the engine is.
    """

    token_id: int | None = None
    logprobs: TokenLogprobs | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    error: str | None = None
    culprit: str | None = None
