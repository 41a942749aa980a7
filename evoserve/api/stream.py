"""Answers on the wire: one JSON body, or server-sent events; a client that leaves ends its work."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from evoserve.api.choice import Call, Piece
from evoserve.api.errors import error_answer, log_internal, status_of
from evoserve.api.generate import Generation
from evoserve.api.schemas import Answer, Choice, ErrorAnswer, SamplingBody, StreamOptions
from evoserve.api.service import service_of
from evoserve.api.tool_text import join_parts

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
CLIENT_CLOSED_REQUEST = 499
PADDED_CHARS = 64  # with include_obfuscation all chunks are a multiple of it longer than another

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_MARK = "\0"  # stands for the text in a frame; nothing behind it looks like this

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Wording:
    """How an endpoint words what was generated.

    choice: of a whole piece; chunks: of a streamed one, which may be the choice's first.
    """

    kind: str
    chunk_kind: str
    choice: Callable[[Piece], Choice]
    chunks: Callable[[Piece, bool], list[Choice]]


async def respond(request: Request, call: Call, body: SamplingBody, wording: Wording) -> Response:
    """Run the call and answer it, streamed or whole. Raises what `Generation` raises."""
    headers = {"x-evoserve-recipe": call.served.model_id}
    if ignored := body.without_effect():
        headers["x-evoserve-ignored"] = ", ".join(ignored)
    generation = Generation(service_of(request), call)
    if body.stream:
        options = body.stream_options or StreamOptions()
        events = stream_events(
            generation,
            call,
            wording,
            has_usage=bool(options.include_usage),
            is_padded=bool(options.include_obfuscation),
        )
        return EventStream(events, generation.close, headers)
    pieces = await collect(request, generation)
    if pieces is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    answer = _envelope(call, wording.kind, [wording.choice(piece) for piece in pieces])
    return JSONResponse({**answer, "usage": generation.usage()}, headers=headers)


async def collect(request: Request, generation: Generation) -> list[Piece] | None:
    """The choices, whole, in order; None if the client leaves first. Closes the generation."""
    try:
        return await _unless_disconnected(request.receive, _whole(generation))
    finally:
        generation.close()


async def stream_events(
    generation: Generation,
    call: Call,
    wording: Wording,
    *,
    has_usage: bool,
    is_padded: bool = False,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> AsyncIterator[bytes]:
    """The events of a streamed answer; an error after the first byte becomes the last event."""
    chunks = _Chunks(call, wording, has_usage=has_usage, is_padded=is_padded)
    try:
        async for pieces in generation.batches(keep_alive_s):
            yield "".join(map(chunks.of, pieces)).encode() or KEEP_ALIVE
        if has_usage:
            yield _event({**chunks.envelope, "usage": generation.usage()}).encode()
        yield DONE
    except Exception as error:  # the status line has gone out: tell the client in the stream
        if status_of(error) == 500:
            log_internal(error)
        yield _event(error_answer(error)).encode()


class EventStream(Response):
    """Server-sent events; `close` is called when the stream has ended or the client has left."""

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[bytes], close: Callable[[], None], headers: dict[str, str]
    ) -> None:
        sent = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers}
        self.status_code = 200
        self.background = None
        self.init_headers(sent)
        self._events = events
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        del scope
        try:
            await _unless_disconnected(receive, self._send_all(send))
        finally:
            self._close()

    async def _send_all(self, send: Send) -> None:
        head = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **head})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _Chunks:
    """The events of a call's pieces; what all of them have in common is serialised once."""

    def __init__(self, call: Call, wording: Wording, *, has_usage: bool, is_padded: bool) -> None:
        self.envelope = _envelope(call, wording.chunk_kind, [])
        whole = {**self.envelope, "usage": None} if has_usage else self.envelope
        self._head, _, self._tail = _event(whole).rpartition("[]")
        self._wording = wording
        self._is_padded = is_padded
        self._frames: dict[int, tuple[str, str]] = {}

    def of(self, piece: Piece) -> str:
        """One event after the other for what `Wording.chunks` says."""
        frame = self._frames.get(piece.index)
        is_text = bool(piece.text) and not (piece.tokens or piece.calls or piece.finish_reason)
        if frame and is_text and not self._is_padded:
            return frame[0] + _JSON.encode(piece.text) + frame[1]
        self._frames[piece.index] = frame or self._frame(piece.index)
        choices = self._wording.chunks(piece, frame is None)
        return "".join(map(self._chunk, choices))

    def _frame(self, index: int) -> tuple[str, str]:
        """What stands around the text of a piece that is nothing but text."""
        (choice,) = self._wording.chunks(Piece(index, _MARK), False)
        before, _, after = self._chunk(choice).rpartition(_JSON.encode(_MARK))
        return before, after

    def _chunk(self, choice: Choice) -> str:
        text = _JSON.encode(choice)
        padding = ""
        if self._is_padded:
            padding = f',"obfuscation":"{"0" * (PADDED_CHARS - len(text) % PADDED_CHARS)}"'
        return f"{self._head}[{text}]{padding}{self._tail}"


async def _whole(generation: Generation) -> list[Piece]:
    """The choices, whole, in order."""
    parts: dict[int, list[Piece]] = {}
    async for pieces in generation.batches():
        for piece in pieces:
            parts.setdefault(piece.index, []).append(piece)
    return [_join(parts[index]) for index in sorted(parts)]


def _join(pieces: Sequence[Piece]) -> Piece:
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    text = "".join(piece.text for piece in pieces)
    calls = join_parts(part for piece in pieces for part in piece.calls)
    return Piece(pieces[-1].index, text, tokens, pieces[-1].finish_reason, calls)


async def _unless_disconnected(
    receive: Receive, work: Coroutine[None, None, _Value]
) -> _Value | None:
    """What `work` returns, None if the client leaves first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _envelope(call: Call, kind: str, choices: list[Choice]) -> Answer:
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model,
        "system_fingerprint": call.served.fingerprint,
        "choices": choices,
    }


def encode_json(value: object) -> str:
    """Compact JSON, every character as it is."""
    return _JSON.encode(value)


def _event(answer: Answer | ErrorAnswer) -> str:
    return f"data: {_JSON.encode(answer)}\n\n"
