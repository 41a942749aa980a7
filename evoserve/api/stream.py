"""Answers on the wire: one JSON body, or server-sent events; a client that leaves ends its work."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from evoserve.api.choice import Call, Piece
from evoserve.api.errors import error_answer, log_internal, status_of
from evoserve.api.generate import Generation
from evoserve.api.schemas import Answer, Choice, ErrorAnswer, SamplingBody, Usage
from evoserve.api.service import service_of
from evoserve.errors import RequestError

KEEP_ALIVE_S = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
CLIENT_CLOSED_REQUEST = 499


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
    if body.stream_options is not None and not body.stream:
        message = "'stream_options' is only allowed with 'stream': true."
        raise RequestError(message, param="stream_options", code="invalid_value")
    headers = {"x-evoserve-recipe": call.served.model_id}
    generation = Generation(service_of(request), call)
    if body.stream:
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = stream_events(generation, call, wording, has_usage=has_usage)
        return EventStream(events, generation.close, headers)
    try:
        pieces = await _unless_disconnected(request, _collect(generation))
    finally:
        generation.close()
    if pieces is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    answer = _envelope(call, wording.kind, [wording.choice(piece) for piece in pieces])
    return JSONResponse({**answer, "usage": generation.usage()}, headers=headers)


async def stream_events(
    generation: Generation,
    call: Call,
    wording: Wording,
    *,
    has_usage: bool,
    keep_alive_s: float = KEEP_ALIVE_S,
) -> AsyncIterator[bytes]:
    """The events of a streamed answer; an error after the first byte becomes the last event."""
    opened: set[int] = set()

    def chunk(choices: list[Choice], usage: Usage | None = None) -> bytes:
        answer = _envelope(call, wording.chunk_kind, choices)
        if has_usage:
            answer["usage"] = usage
        return _event(answer)

    try:
        async for pieces in generation.batches(keep_alive_s):
            choices = [choice for piece in pieces for choice in _word(wording, piece, opened)]
            yield b"".join(chunk([choice]) for choice in choices) or KEEP_ALIVE
        if has_usage:
            yield chunk([], generation.usage())
        yield DONE
    except Exception as error:  # the status line has gone out: tell the client in the stream
        if status_of(error) == 500:
            log_internal(error)
        yield _event(error_answer(error))


class EventStream(StreamingResponse):
    """Server-sent events; `close` is called when the stream has ended or the client has left."""

    def __init__(
        self, events: AsyncIterator[bytes], close: Callable[[], None], headers: dict[str, str]
    ) -> None:
        sent = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers}
        super().__init__(events, media_type="text/event-stream", headers=sent)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._close()


async def _collect(generation: Generation) -> list[Piece]:
    """The choices, whole, in order."""
    parts: dict[int, list[Piece]] = {}
    async for pieces in generation.batches():
        for piece in pieces:
            parts.setdefault(piece.index, []).append(piece)
    return [_join(parts[index]) for index in sorted(parts)]


def _join(pieces: Sequence[Piece]) -> Piece:
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    text = "".join(piece.text for piece in pieces)
    return Piece(pieces[-1].index, text, tokens, pieces[-1].finish_reason)


async def _unless_disconnected(
    request: Request, work: Coroutine[Any, Any, list[Piece]]
) -> list[Piece] | None:
    """What `work` returns, None if the client leaves first."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _word(wording: Wording, piece: Piece, opened: set[int]) -> list[Choice]:
    """The chunks of a piece; `opened` are the choices that have begun, and is kept so."""
    is_first = piece.index not in opened
    opened.add(piece.index)
    return wording.chunks(piece, is_first)


def _envelope(call: Call, kind: str, choices: list[Choice]) -> Answer:
    return {
        "id": call.id,
        "object": kind,
        "created": call.created,
        "model": call.model,
        "system_fingerprint": call.served.fingerprint,
        "choices": choices,
    }


def _event(answer: Answer | ErrorAnswer) -> bytes:
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"data: {text}\n\n".encode()
