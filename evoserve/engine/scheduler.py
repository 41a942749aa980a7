"""Which tokens the next step computes, and what its samples mean for every sequence. No torch.

First come, first served; each step takes every decode, then prefill chunks, up to a budget of
tokens. When blocks run out, the sequence admitted last gives its blocks back and is computed
again later (preemption by recompute), so that the first always gets on.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evoserve.engine.block_manager import BlockManager
from evoserve.engine.request import FinishReason, TokenEvent, TokenLogprobs
from evoserve.engine.sequence import Chunk, Phase, Sample, Status
from evoserve.engine.sequence import Sequence as Generation

Event = tuple[int, TokenEvent]


@dataclass(slots=True)
class Counters:
    """What an engine has done since its start, over all recipes."""

    num_prompt_tokens: int = 0
    num_cached_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_preemptions: int = 0
    num_steps: int = 0


class Scheduler:
    """The queues of one recipe; `schedule` and `commit` alternate, the rest at any time between.

    At most as many sequences run as a step has tokens, and only one of them is in prefill, so
    each one advances in each step. The caller has checked that every sequence fits the pool
    alone (`admission.check_request`).
    """

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        counters: Counters,
    ) -> None:
        """Nothing waits or runs. `counters` may be shared with other recipes' schedulers."""
        self.blocks = blocks
        self.max_num_seqs = min(max_num_seqs, max_num_batched_tokens)
        self.num_preemptions = 0
        self._max_num_batched_tokens = max_num_batched_tokens
        self._counters = counters
        self._sequences: dict[int, Generation] = {}
        self._waiting: deque[Generation] = deque()
        self._running: list[Generation] = []

    @property
    def num_waiting(self) -> int:
        """Sequences that are not admitted, or preempted."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold blocks."""
        return len(self._running)

    @property
    def has_work(self) -> bool:
        """Is there any sequence?"""
        return bool(self._sequences)

    def submit(self, sequence: Generation) -> None:
        """Queue a sequence behind all others."""
        self._sequences[sequence.ticket] = sequence
        self._waiting.append(sequence)

    def schedule(self) -> tuple[Chunk, ...]:
        """The chunks of the next forward pass, those of one token first."""
        plan: dict[Generation, int] = {}
        num_preemptions = self.num_preemptions
        self._plan_running(plan)
        if self.num_preemptions == num_preemptions:
            self._admit(plan)
        chunks = [Chunk(seq, seq.num_computed_tokens, number) for seq, number in plan.items()]
        return tuple(sorted(chunks, key=lambda chunk: chunk.num_tokens > 1))

    def commit(self, chunks: Sequence[Chunk], samples: Sequence[Sample]) -> list[Event]:
        """Take the results of the chunks that `schedule` gave; the events they mean."""
        events: list[Event] = []
        for chunk, sample in zip(chunks, samples, strict=True):
            sequence = chunk.sequence
            if sample.error is not None:
                error = (sample.error, sample.culprit)
                events.append(self._end(sequence, FinishReason.ERROR, *error))
                continue
            sequence.num_computed_tokens = chunk.stop
            sequence.prompt_logprobs.extend(sample.prompt_logprobs)
            self.blocks.register(sequence.table, sequence.token_ids, chunk.stop)
            if chunk.samples:
                events.append(self._advance(sequence, sample))
        return events

    def abort(self, ticket: int) -> list[Event]:
        """End a sequence now; nothing happens if it is over already."""
        sequence = self._sequences.get(ticket)
        return [] if sequence is None else [self._end(sequence, FinishReason.ABORT)]

    def abort_all(self) -> list[Event]:
        """End every sequence now."""
        return [event for ticket in list(self._sequences) for event in self.abort(ticket)]

    def fail(self, chunks: Iterable[Chunk], message: str) -> list[Event]:
        """End the sequences of a step that raised, those too that its lost events ended."""
        return [self._end(chunk.sequence, FinishReason.ERROR, message) for chunk in chunks]

    def fail_all(self, message: str) -> list[Event]:
        """End every sequence, when not even the chunks of the step are known."""
        sequences = list(self._sequences.values())
        return [self._end(sequence, FinishReason.ERROR, message) for sequence in sequences]

    def _plan_running(self, plan: dict[Generation, int]) -> None:
        budget = self._max_num_batched_tokens
        for sequence in sorted(self._running, key=lambda seq: seq.phase is Phase.PREFILL):
            if sequence.status is Status.RUNNING and self._make_room(sequence):
                left = budget - sum(plan.values())
                plan[sequence] = min(sequence.num_uncomputed_tokens, left)

    def _make_room(self, sequence: Generation) -> bool:
        """Preempt until the sequence has a block for its last token; False if it went itself.

        Only decodes ever lack one, so whoever was admitted later is not planned yet.
        """
        while not self.blocks.grow(sequence.table, len(sequence.token_ids)):
            victim = self._running.pop()
            self._preempt(victim)
            if victim is sequence:
                return False
        return True

    def _preempt(self, victim: Generation) -> None:
        self.blocks.release(victim.table)
        victim.num_computed_tokens = 0
        victim.status = Status.WAITING
        self._waiting.appendleft(victim)
        self.num_preemptions += 1
        self._counters.num_preemptions += 1

    def _admit(self, plan: dict[Generation, int]) -> None:
        budget = self._max_num_batched_tokens - sum(plan.values())
        while self._waiting and budget > 0 and len(self._running) < self.max_num_seqs:
            sequence = self._waiting[0]
            table = self.blocks.allocate(
                sequence.token_ids,
                reserve=len(self._running),
                use_cache=not sequence.lacks_prompt_logprobs,
            )
            if table is None:
                return
            self._waiting.popleft()
            self._start(sequence, table.num_registered * self.blocks.block_size)
            sequence.table = table
            plan[sequence] = min(sequence.num_uncomputed_tokens, budget)
            budget -= plan[sequence]

    def _start(self, sequence: Generation, num_cached_tokens: int) -> None:
        sequence.status = Status.RUNNING
        sequence.num_computed_tokens = num_cached_tokens
        self._running.append(sequence)
        if sequence.num_cached_tokens is None:
            sequence.num_cached_tokens = num_cached_tokens
            sequence.queued_s = time.perf_counter() - sequence.submitted_s
            self._counters.num_prompt_tokens += sequence.num_prompt_tokens
            self._counters.num_cached_prompt_tokens += num_cached_tokens

    def _advance(self, sequence: Generation, sample: Sample) -> Event:
        params = sequence.params
        if params.max_tokens == 0:
            return self._end(sequence, FinishReason.LENGTH)
        if sample.token_id is None:
            return self._end(sequence, FinishReason.ERROR, "the sampler gave no token")
        is_first = sequence.num_generated_tokens == 0
        sequence.token_ids.append(sample.token_id)
        self._counters.num_generated_tokens += 1
        reason = None
        if sample.token_id in sequence.stop_ids:
            reason = FinishReason.STOP
        elif sequence.num_generated_tokens >= params.max_tokens:
            reason = FinishReason.LENGTH
        if reason is not None:
            self._retire(sequence, reason)
        return sequence.ticket, TokenEvent(
            token_id=sample.token_id,
            finish_reason=reason,
            logprobs=sample.logprobs,
            num_cached_tokens=sequence.num_cached_tokens or 0,
            prompt_logprobs=_reported_prompt(sequence) if is_first else None,
            queued_s=sequence.queued_s,
        )

    def _end(
        self,
        sequence: Generation,
        reason: FinishReason,
        error: str | None = None,
        culprit: str | None = None,
    ) -> Event:
        """Retire a sequence without a further token."""
        self._retire(sequence, reason)
        completed = reason is FinishReason.LENGTH
        return sequence.ticket, TokenEvent(
            token_id=None,
            finish_reason=reason,
            num_cached_tokens=sequence.num_cached_tokens or 0,
            prompt_logprobs=_reported_prompt(sequence) if completed else None,
            error=error,
            culprit=culprit,
        )

    def _retire(self, sequence: Generation, reason: FinishReason) -> None:
        if sequence.status is Status.RUNNING:
            self._running.remove(sequence)
        elif sequence.status is Status.WAITING:
            self._waiting.remove(sequence)
        self.blocks.release(sequence.table)
        sequence.status = Status.FINISHED
        sequence.finish_reason = reason
        self._sequences.pop(sequence.ticket, None)


def _reported_prompt(sequence: Generation) -> tuple[TokenLogprobs | None, ...] | None:
    wanted = sequence.params.prompt_logprobs is not None
    return tuple(sequence.prompt_logprobs) if wanted else None
