"""Text of a call: whole whatever the tokens are, cut before stop strings, always freed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from evoserve.api.choice import Call, Piece
from evoserve.api.completions import prepare_completion
from evoserve.api.generate import Generation
from evoserve.api.schemas import CompletionBody
from evoserve.api.service import Service
from evoserve.config import Settings
from evoserve.engine.protocol import (
    FinishReason,
    GenerationRequest,
    TokenEvent,
    TokenLogprobs,
)
from evoserve.errors import CapacityError, EngineError
from evoserve.tokenizer import Tokenizer

EOS = 256
_PROPERTY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
_TEXT = st.text(st.sampled_from("abcあ日😀é "), max_size=24)
_STOP = st.text(st.sampled_from("abcあ日😀 "), min_size=1, max_size=4)


def say(
    text: str, *, is_ended: bool = True, has_logprobs: bool = False
) -> Callable[[GenerationRequest], AsyncIterator[TokenEvent]]:
    """A plan: one token per UTF-8 byte, then the end token or the length limit."""

    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        tokens = list(text.encode())
        for index, token in enumerate(tokens):
            is_last = not is_ended and index == len(tokens) - 1
            scores = TokenLogprobs(token, -float("inf"), ((token, -0.5),)) if has_logprobs else None
            yield TokenEvent(token, FinishReason.LENGTH if is_last else None, scores)
        if is_ended or not tokens:
            yield TokenEvent(EOS, FinishReason.STOP)

    return plan


def first_stop(text: str, stops: list[str]) -> str:
    """The text before the stop string that is complete first: the definition, not the method."""
    for end in range(len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


@_PROPERTY
@given(_TEXT, st.lists(_STOP, max_size=3), st.booleans())
def test_text_ends_before_the_first_stop_string(
    make_service, make_call, run_call, text: str, stops: list[str], is_ended: bool
) -> None:
    service = make_service(say(text, is_ended=is_ended))
    pieces = run_call(service, make_call(stops))
    said = "".join(piece.text for piece in pieces)
    assert said == first_stop(text, stops)
    assert "\ufffd" not in said
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    is_cut = said != text
    assert pieces[-1].finish_reason == ("stop" if is_cut or is_ended or not text else "length")
    assert not service.engine.running


@_PROPERTY
@given(_TEXT, st.lists(_STOP, max_size=2))
def test_scored_tokens_spell_the_text(make_service, make_call, run_call, text, stops) -> None:
    pieces = run_call(make_service(say(text, has_logprobs=True)), make_call(stops))
    said = "".join(piece.text for piece in pieces)
    tokens = [token for piece in pieces for token in piece.tokens]
    assert b"".join(token.spelling for token in tokens) == said.encode()
    assert all(token.logprob == -9999.0 for token in tokens)
    decoded = [len(said.encode()[:index].decode("utf-8", "ignore")) for index in range(len(tokens))]
    assert [token.start for token in tokens] == decoded


def test_a_cut_character_at_the_length_limit_is_one_replacement(
    make_service, make_call, run_call
) -> None:
    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        yield TokenEvent("日".encode()[0])
        yield TokenEvent("日".encode()[1], FinishReason.LENGTH)

    pieces = run_call(make_service(plan), make_call())
    assert "".join(piece.text for piece in pieces) == "\ufffd"


def test_a_completion_goes_on_in_the_text_of_its_prompt(make_service, served) -> None:
    """A sentencepiece tokenizer takes the blank from the front of a text, not from its middle."""
    backend = tokenizers.Tokenizer(models.BPE(vocab={"▁a": 0, "▁b": 1}, merges=[]))
    backend.decoder = decoders.Metaspace()
    blanks = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), frozenset())

    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        yield TokenEvent(1, FinishReason.LENGTH)

    async def scenario() -> str:
        service = make_service(plan)
        body = CompletionBody(model="toy", prompt=[0])
        call = await prepare_completion(service, body, replace(served, tokenizer=blanks))
        generation = Generation(service, call)
        return "".join([p.text async for batch in generation.batches() for p in batch])

    assert asyncio.run(scenario()) == " b"


def test_stop_strings_wait_for_min_tokens(make_service, make_call, run_call) -> None:
    pieces = run_call(make_service(say("abcabc")), make_call(["b"], min_tokens=3))
    assert "".join(piece.text for piece in pieces) == "abca"


def test_choices_differ_by_seed_and_all_count(make_service, make_call) -> None:
    async def scenario() -> None:
        service = make_service(say("ab"))
        generation = Generation(service, make_call(n=3, seed=2**63 - 2))
        pieces = [piece async for batch in generation.batches() for piece in batch]
        generation.close()
        assert {piece.index for piece in pieces} == {0, 1, 2}
        seeds = [request.params.seed for request in service.engine.requests]
        assert seeds == [2**63 - 2, 2**63 - 1, 0]
        usage = generation.usage()
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (3, 9)

    asyncio.run(scenario())


def test_a_full_queue_frees_what_was_submitted(make_service, make_call) -> None:
    async def scenario() -> None:
        service = make_service(say("ab"), capacity=2)
        with pytest.raises(CapacityError):
            Generation(service, make_call(n=3))
        assert not service.engine.running

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("reason", "error"),
    [(FinishReason.ERROR, EngineError), (FinishReason.ABORT, CapacityError), (None, EngineError)],
)
def test_sequences_that_break_raise(make_service, make_call, run_call, reason, error) -> None:
    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        yield TokenEvent(97)
        if reason is not None:
            yield TokenEvent(None, reason, error="inner secret")

    service = make_service(plan)
    with pytest.raises(error):
        run_call(service, make_call())
    assert not service.engine.running


def test_silence_is_reported_and_closing_frees(
    make_service: Callable[..., Service], make_call: Callable[..., Call]
) -> None:
    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        yield TokenEvent(97)
        await asyncio.Event().wait()

    async def scenario() -> None:
        service = make_service(plan)
        generation = Generation(service, make_call(n=2))
        batches = generation.batches(idle_s=0.001)
        got = [await anext(batches) for _ in range(4)]
        assert got[-1] == []
        assert [piece for pieces in got for piece in pieces] == [Piece(0, "a"), Piece(1, "a")]
        assert len(service.engine.running) == 2
        generation.close()
        assert not service.engine.running

    asyncio.run(scenario())


def endless(num_top: int = 1) -> Callable[[GenerationRequest], AsyncIterator[TokenEvent]]:
    """A plan: tokens without end, and a turn of the event loop for each."""

    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        while True:
            yield TokenEvent(97, logprobs=TokenLogprobs(97, -0.5, ((97, -0.5),) * num_top))
            await asyncio.sleep(0)

    return plan


def test_a_reader_that_falls_behind_is_given_up_and_holds_nothing(make_service, make_call) -> None:
    async def scenario() -> None:
        service = make_service(endless(20))
        service = replace(service, settings=Settings(max_unread_bytes=2**16))
        generation = Generation(service, make_call(n=3))
        batches = generation.batches()
        assert await anext(batches)
        num_turns = 0
        while service.engine.running:
            num_turns += 1
            assert num_turns < 1000, "it generates for nobody"
            await asyncio.sleep(0)
        with pytest.raises(CapacityError, match="more than 65536 bytes of the answer wait"):
            await anext(batches)
        generation.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("num_top", [20, 1000])
def test_a_reader_that_keeps_up_is_not_given_up(make_service, make_call, num_top: int) -> None:
    """However large the pieces are."""

    async def scenario() -> None:
        service = make_service(endless(num_top))
        service = replace(service, settings=Settings(max_unread_bytes=2**16))
        generation = Generation(service, make_call())
        batches, num_pieces = generation.batches(), 0
        while num_pieces < 500:
            num_pieces += len(await anext(batches))
        generation.close()
        assert not service.engine.running

    asyncio.run(scenario())


def test_the_end_of_a_drain_ends_what_runs_with_an_error(make_service, make_call) -> None:
    async def scenario() -> None:
        service = make_service(endless())
        cut, left = Generation(service, make_call(n=2)), Generation(service, make_call())
        batches = cut.batches()
        first = await anext(batches)
        assert {piece.index for piece in first} == {0, 1}
        left.close()
        service.drain.cut()
        assert not service.engine.running
        with pytest.raises(CapacityError, match="the server is stopping"):
            await anext(batches)
        cut.close()

    asyncio.run(scenario())
