"""Events on the wire: the same bytes as a plain dump of every chunk, sent until somebody leaves."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message

from evoserve.api.chat import CHAT
from evoserve.api.choice import Piece, ScoredToken
from evoserve.api.completions import COMPLETION
from evoserve.api.stream import DONE, KEEP_ALIVE, EventStream, stream_events

_TOKEN = st.builds(
    ScoredToken, st.binary(max_size=3), st.floats(-9, 0), st.just(()), st.integers(0, 9)
)
_PIECES = st.builds(
    Piece,
    st.integers(0, 2),
    st.text(max_size=5),
    st.one_of(st.just(()), st.lists(_TOKEN, max_size=2).map(tuple)),
    st.sampled_from([None, None, None, "stop", "length"]),
)


class Recital:
    """Says the batches it was given, as a `Generation` would."""

    def __init__(self, batches: Sequence[list[Piece]]) -> None:
        self._batches = batches

    async def batches(self, idle_s: float | None = None) -> AsyncIterator[list[Piece]]:
        for batch in self._batches:
            yield batch

    def usage(self) -> dict[str, int]:
        return {"total_tokens": 7}


async def collect(events: AsyncIterator[bytes]) -> list[bytes]:
    return [event async for event in events]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batches=st.lists(st.lists(_PIECES, max_size=4), max_size=4),
    wording=st.sampled_from([CHAT, COMPLETION]),
    has_usage=st.booleans(),
)
def test_events_are_plain_dumps_of_their_chunks(make_call, batches, wording, has_usage) -> None:
    call = make_call(n=3)
    seen: set[int] = set()

    def dump(choices: list[object], usage: object = None) -> bytes:
        chunk = {
            "id": call.id,
            "object": wording.chunk_kind,
            "created": call.created,
            "model": call.model,
            "system_fingerprint": call.served.fingerprint,
            "choices": choices,
            **({"usage": usage} if has_usage else {}),
        }
        text = json.dumps(chunk, ensure_ascii=False, separators=(",", ":"))
        return b"data: " + text.encode() + b"\n\n"

    def plain(piece: Piece) -> bytes:
        is_first = piece.index not in seen
        seen.add(piece.index)
        return b"".join(dump([choice]) for choice in wording.chunks(piece, is_first))

    expected = [b"".join(map(plain, batch)) or KEEP_ALIVE for batch in batches]
    expected += [dump([], Recital([]).usage())] if has_usage else []
    events = stream_events(Recital(batches), call, wording, has_usage=has_usage)
    assert asyncio.run(collect(events)) == [*expected, DONE]


@pytest.fixture
def closed() -> list[bool]:
    return []


def respond_with(events: AsyncIterator[bytes], closed: list[bool]) -> EventStream:
    return EventStream(events, lambda: closed.append(True), {"x-name": "value"})


async def say(*events: bytes) -> AsyncIterator[bytes]:
    for event in events:
        yield event


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def test_events_are_sent_one_by_one_and_the_last_message_ends(closed) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await respond_with(say(b"a", b"b"), closed)({"type": "http"}, never, send)
    assert (b"x-name", b"value") in sent[0]["headers"]
    assert (b"content-type", b"text/event-stream; charset=utf-8") in sent[0]["headers"]
    bodies = [(message["body"], message["more_body"]) for message in sent[1:]]
    assert bodies == [(b"a", True), (b"b", True), (b"", False)]
    assert closed == [True]


async def test_a_client_that_leaves_ends_a_send_that_waits_for_it(closed) -> None:
    is_waiting = asyncio.Event()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            is_waiting.set()
            await asyncio.Event().wait()

    async def receive() -> Message:
        await is_waiting.wait()
        return {"type": "http.disconnect"}

    await respond_with(say(b"a", b"b"), closed)({"type": "http"}, receive, send)
    assert closed == [True]


async def test_a_send_that_fails_is_raised_and_closes(closed) -> None:
    async def send(message: Message) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await respond_with(say(b"a"), closed)({"type": "http"}, never, send)
    assert closed == [True]
