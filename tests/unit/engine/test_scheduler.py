"""Thousands of random schedules over a pure model that reads its context through the blocks."""

import subprocess
import sys
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.engine.block_manager import BlockManager
from evoserve.engine.request import FinishReason, SamplingParams, TokenEvent, TokenLogprobs
from evoserve.engine.scheduler import Counters, Scheduler
from evoserve.engine.sequence import Chunk, Phase, Sample, Status
from evoserve.engine.sequence import Sequence as Generation

VOCAB = 5
MAX_LEN = 24


def next_token(context: list[int]) -> int:
    """The pure model: any change of any token, or of their order, changes what follows."""
    state = 7
    for token in context:
        state = (state * 1_000_003 + token + 1) % 2_147_483_647
    return state % VOCAB


def continuation(prompt: list[int], max_tokens: int, stop: frozenset[int]) -> list[int]:
    tokens = list(prompt)
    for _ in range(max_tokens):
        tokens.append(next_token(tokens))
        if tokens[-1] in stop:
            break
    return tokens[len(prompt) :]


@dataclass
class PureEngine:
    """Scheduler, KV memory as a dict, and every event seen; checks each step it makes."""

    num_blocks: int = 8
    block_size: int = 3
    max_num_seqs: int = 4
    budget: int = 6
    caching: bool = True
    counters: Counters = field(default_factory=Counters)
    memory: dict[int, tuple[int, int]] = field(default_factory=dict)
    events: dict[int, list[TokenEvent]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.blocks = BlockManager(self.num_blocks, self.block_size, caching=self.caching)
        self.scheduler = Scheduler(
            self.blocks,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.budget,
            counters=self.counters,
        )

    def step(self) -> tuple[Chunk, ...]:
        chunks = self.scheduler.schedule()
        assert chunks, "work is left but nothing was scheduled"
        assert len(chunks) == self.scheduler.num_running, "whoever runs advances"
        assert sum(chunk.num_tokens for chunk in chunks) <= self.budget
        assert len({chunk.sequence for chunk in chunks}) == len(chunks) <= self.max_num_seqs
        sizes = [chunk.num_tokens > 1 for chunk in chunks]
        assert sizes == sorted(sizes), "single tokens come first"
        for chunk in chunks:
            assert chunk.num_tokens > 0
            self._write(chunk)
        self.keep(self.scheduler.commit(chunks, [self._sample(chunk) for chunk in chunks]))
        return chunks

    def keep(self, events: list[tuple[int, TokenEvent]]) -> None:
        for ticket, event in events:
            seen = self.events.setdefault(ticket, [])
            assert not seen or seen[-1].finish_reason is None, "an event after the last"
            seen.append(event)

    def run(self, max_steps: int = 10_000) -> int:
        for number in range(max_steps):
            if not self.scheduler.has_work:
                return number
            self.step()
        raise AssertionError("sequences starve")

    def tokens(self, ticket: int) -> list[int]:
        return [event.token_id for event in self.events[ticket] if event.token_id is not None]

    def _write(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        for position in range(chunk.start, chunk.stop):
            slot = self._slot(sequence, position)
            assert self.blocks.num_owners(slot // self.block_size) == 1, "a shared block is written"
            self.memory[slot] = (position, sequence.token_ids[position])

    def _sample(self, chunk: Chunk) -> Sample:
        context = []
        for position in range(chunk.stop):
            stored, token = self.memory[self._slot(chunk.sequence, position)]
            assert stored == position, "KV of another position was read"
            context.append(token)
        prompt = ()
        if chunk.sequence.lacks_prompt_logprobs:
            known = len(chunk.sequence.prompt_logprobs)
            targets = chunk.sequence.prompt[known : chunk.stop + 1]
            assert len(targets) + chunk.samples == chunk.num_logits
            prompt = tuple(TokenLogprobs(token, -1.0) for token in targets)
        return Sample(next_token(context) if chunk.samples else None, prompt_logprobs=prompt)

    def _slot(self, sequence: Generation, position: int) -> int:
        block = sequence.table.block_ids[position // self.block_size]
        return block * self.block_size + position % self.block_size


def generation(ticket: int, prompt: list[int], max_tokens: int, **params: object) -> Generation:
    stop = params.pop("stop", frozenset())
    return Generation(ticket, tuple(prompt), SamplingParams(max_tokens, **params), 0, stop)  # type: ignore[arg-type]


@st.composite
def requests(draw: st.DrawFn) -> tuple[list[int], int, frozenset[int], int | None]:
    prompt = draw(st.lists(st.integers(0, 1), min_size=1, max_size=MAX_LEN - 1))
    room = MAX_LEN - len(prompt)
    max_tokens = draw(st.integers(0, room))
    stop = draw(st.frozensets(st.integers(0, VOCAB - 1), max_size=1))
    return prompt, max_tokens, stop, draw(st.sampled_from([None, None, 0]))


ENGINES = st.builds(
    PureEngine,
    num_blocks=st.integers(MAX_LEN // 3, 20),
    block_size=st.sampled_from([3, 4, 8]),
    max_num_seqs=st.integers(1, 6),
    budget=st.integers(1, 30),
    caching=st.booleans(),
)


@settings(max_examples=1500, deadline=None)
@given(
    engine=ENGINES,
    wanted=st.lists(requests(), min_size=1, max_size=10),
    pace=st.lists(st.integers(0, 4), max_size=10),
    aborts=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10)), max_size=4),
)
def test_any_schedule_gives_what_each_request_gives_alone(
    engine: PureEngine,
    wanted: list[tuple[list[int], int, frozenset[int], int | None]],
    pace: list[int],
    aborts: list[tuple[int, int]],
) -> None:
    """Batching, chunks, preemption, prefix cache and aborts change no token; all ends free."""
    aborted: set[int] = set()
    step = 0
    for ticket, (prompt, max_tokens, stop, prompt_logprobs) in enumerate(wanted, start=1):
        engine.scheduler.submit(
            generation(ticket, prompt, max_tokens, stop=stop, prompt_logprobs=prompt_logprobs)
        )
        for _ in range(pace[ticket - 1] if ticket <= len(pace) else 0):
            for when, victim in aborts:
                if when == step and victim <= ticket:
                    events = engine.scheduler.abort(victim)
                    engine.keep(events)
                    aborted.update(victim for _ in events)
            step += 1
            if engine.scheduler.has_work:
                engine.step()
    engine.run()
    for ticket, (prompt, max_tokens, stop, prompt_logprobs) in enumerate(wanted, start=1):
        last = engine.events[ticket][-1]
        expected = continuation(prompt, max_tokens, stop)
        if ticket in aborted:
            assert last.finish_reason is FinishReason.ABORT
            assert engine.tokens(ticket) == expected[: len(engine.tokens(ticket))]
            continue
        assert engine.tokens(ticket) == expected
        stopped = bool(expected) and expected[-1] in stop
        assert last.finish_reason is (FinishReason.STOP if stopped else FinishReason.LENGTH)
        if prompt_logprobs is not None:
            reported = engine.events[ticket][0].prompt_logprobs
            assert reported is not None
            assert [one and one.token_id for one in reported] == [None, *prompt[1:]]
            assert last.num_cached_tokens == 0
    assert engine.blocks.num_free == engine.blocks.num_blocks
    assert engine.scheduler.num_running == engine.scheduler.num_waiting == 0


def test_the_last_admitted_is_preempted_and_comes_back_before_who_waits() -> None:
    engine = PureEngine(num_blocks=6, block_size=2, max_num_seqs=2, budget=8)
    first, second, third = (generation(ticket, [0, 1], 9) for ticket in (1, 2, 3))
    for sequence in (first, second, third):
        engine.scheduler.submit(sequence)
    engine.step()
    while first.status is not Status.FINISHED:
        assert first.status is Status.RUNNING
        assert third.status is Status.WAITING
        engine.step()
    assert engine.counters.num_preemptions > 0
    assert second.status is Status.WAITING
    engine.step()
    assert second.status is Status.RUNNING
    engine.run()
    for ticket in (1, 2, 3):
        assert engine.tokens(ticket) == continuation([0, 1], 9, frozenset())


def test_a_long_prompt_is_prefilled_in_chunks_beside_decodes() -> None:
    engine = PureEngine(num_blocks=20, budget=4)
    first = generation(1, [0], 12)
    engine.scheduler.submit(first)
    engine.step()
    engine.scheduler.submit(generation(2, [1] * 11, 1))
    sizes = []
    while 2 not in engine.events:
        assert first.phase is Phase.DECODE
        sizes.append([chunk.num_tokens for chunk in engine.step()])
    assert sizes == [[1, 3], [1, 3], [1, 3], [1, 2]]


def test_every_running_sequence_decodes_in_every_step_whatever_the_budget() -> None:
    engine = PureEngine(num_blocks=20, max_num_seqs=9, budget=3)
    for ticket in range(1, 8):
        engine.scheduler.submit(generation(ticket, [0], 4))
    while engine.scheduler.has_work:
        running = engine.scheduler.num_running
        assert running <= 3
        assert len(engine.step()) >= running


def test_first_come_first_served_even_when_a_later_one_would_fit() -> None:
    engine = PureEngine(num_blocks=6, block_size=2, budget=12)
    engine.scheduler.submit(generation(1, [0] * 6, 4))
    engine.scheduler.submit(generation(2, [1] * 8, 1))
    engine.scheduler.submit(generation(3, [1], 1))
    while not engine.events or engine.events[1][-1].finish_reason is None:
        engine.step()
        assert engine.scheduler.num_waiting == 2
    engine.run()


def test_equal_prefixes_are_computed_once() -> None:
    engine = PureEngine(num_blocks=20, budget=30)
    prompt = [0, 1, 1, 0, 1, 0, 0]
    for ticket in (1, 2):
        engine.scheduler.submit(generation(ticket, prompt, 2))
        engine.run()
    assert engine.events[1][0].num_cached_tokens == 0
    assert engine.events[2][0].num_cached_tokens == 6
    assert engine.counters.num_cached_prompt_tokens == 6
    assert engine.counters.num_prompt_tokens == 14


def test_failed_chunks_end_alone_and_free_their_blocks() -> None:
    engine = PureEngine(num_blocks=20, budget=4)
    sequences = [generation(ticket, [0, 1, 1, ticket % 2], 3) for ticket in (1, 2)]
    for sequence in sequences:
        engine.scheduler.submit(sequence)
    chunks = engine.scheduler.schedule()
    assert [chunk.sequence for chunk in chunks] == sequences[:1]
    (event,) = engine.scheduler.fail(chunks, "broken")
    assert event == (1, TokenEvent(None, FinishReason.ERROR, error="broken"))
    assert sequences[0].status is Status.FINISHED
    assert engine.blocks.num_free == 20
    engine.run()
    assert engine.tokens(2) == continuation([0, 1, 1, 0], 3, frozenset())
    assert engine.scheduler.fail_all("nobody is left") == []


def test_a_sample_with_an_error_ends_its_own_sequence() -> None:
    engine = PureEngine(num_blocks=20, budget=8)
    for ticket in (1, 2):
        engine.scheduler.submit(generation(ticket, [ticket % 2], 2))
    chunks = engine.scheduler.schedule()
    samples = [Sample(error="not finite"), Sample(token_id=4)]
    events = dict(engine.scheduler.commit(chunks, samples))
    assert events[1] == TokenEvent(None, FinishReason.ERROR, error="not finite")
    assert events[2].token_id == 4
    assert engine.scheduler.num_running == 1


def test_max_tokens_zero_computes_the_prompt_and_gives_no_token() -> None:
    engine = PureEngine(num_blocks=20)
    engine.scheduler.submit(generation(1, [0, 1, 1], 0, prompt_logprobs=0))
    engine.run()
    (event,) = engine.events[1]
    assert (event.token_id, event.finish_reason) == (None, FinishReason.LENGTH)
    assert event.prompt_logprobs is not None
    assert len(event.prompt_logprobs) == 3


def test_aborting_twice_or_too_late_does_nothing() -> None:
    engine = PureEngine()
    engine.scheduler.submit(generation(1, [0], 1))
    engine.run()
    assert engine.scheduler.abort(1) == engine.scheduler.abort(2) == []
    assert engine.scheduler.abort_all() == []


@pytest.mark.parametrize("status", [Status.WAITING, Status.RUNNING])
def test_abort_frees_what_a_sequence_holds(status: Status) -> None:
    engine = PureEngine(max_num_seqs=1)
    sequences = {Status.RUNNING: generation(1, [0], 9), Status.WAITING: generation(2, [0], 9)}
    for sequence in sequences.values():
        engine.scheduler.submit(sequence)
    engine.step()
    victim = sequences[status]
    assert victim.status is status
    (event,) = engine.scheduler.abort(victim.ticket)
    assert event[1].finish_reason is FinishReason.ABORT
    engine.run()
    assert engine.blocks.num_free == engine.num_blocks


def test_counters_count_tokens_once_however_often_they_are_recomputed() -> None:
    engine = PureEngine(num_blocks=6, block_size=2, budget=8, caching=False)
    for ticket in (1, 2, 3):
        engine.scheduler.submit(generation(ticket, [0, 1], 9))
    engine.run()
    expected = replace(engine.counters, num_prompt_tokens=6, num_generated_tokens=27)
    assert engine.counters == expected
    assert engine.counters.num_preemptions > 0


def test_the_scheduling_core_never_imports_torch() -> None:
    code = (
        "import sys, evoserve.engine.scheduler, evoserve.engine.admission; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'evoserve.sources')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
