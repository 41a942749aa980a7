"""The client of the serving benchmark: raw sockets in one thread, the same for every server."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypedDict

from benchmarks.serve_wire import END, Answer, BrokenAnswerError, Piece, read_answer


@dataclass(frozen=True)
class Load:
    """`num_streams` requests at once, `num_waves` times, each wave after the last one's end."""

    num_streams: int
    num_waves: int

    @property
    def num_requests(self) -> int:
        """Over all waves."""
        return self.num_streams * self.num_waves


class Measured(TypedDict):
    """One load on one server, as in the JSON; first tokens and gaps over all its streams."""

    tokens_per_s: float
    first_token_s: float
    first_token_max_s: float
    gap_s: float
    gap_p99_s: float
    gap_max_s: float
    num_tokens: int
    texts: list[str]


async def run_load(
    port: int, model: str, load: Load, prompts: Sequence[str], num_tokens: int
) -> Measured:
    """Send every prompt once. Raises BrokenAnswerError if a stream fails or has another length."""
    waves = []
    for start in range(0, load.num_requests, load.num_streams):
        chosen = prompts[start : start + load.num_streams]
        waves.append(await run_wave(port, [build_body(model, p, num_tokens) for p in chosen]))
    for answer in (answer for wave in waves for answer in wave):
        if answer.num_tokens != num_tokens:
            raise BrokenAnswerError(f"{answer.num_tokens} tokens by usage, asked: {num_tokens}")
    return measure(waves)


async def run_wave(port: int, bodies: Sequence[bytes]) -> list[Answer]:
    """All requests at once; the bytes are read after the last one ended."""
    raw = await asyncio.gather(*(ask(port, body) for body in bodies))
    return [read_answer(sent_s, pieces) for sent_s, pieces in raw]


async def ask(port: int, body: bytes) -> tuple[float, list[Piece]]:
    """When it was sent, and what came when until the end. Raises OSError if nobody listens."""
    sent_s = time.perf_counter()
    loop = asyncio.get_running_loop()
    transport, receiver = await loop.create_connection(lambda: _Receiver(loop), "127.0.0.1", port)
    try:
        transport.write(body)
        await receiver.closed
    finally:
        transport.close()
    return sent_s, receiver.pieces


def build_body(model: str, prompt: str, num_tokens: int) -> bytes:
    """A streamed greedy chat request of exactly `num_tokens` tokens, head and body."""
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def measure(waves: Sequence[Sequence[Answer]]) -> Measured:
    """Tokens over the waves' wall time, the prompts' processing included; times over streams."""
    answers = [answer for wave in waves for answer in wave]
    num_tokens = sum(answer.num_tokens for answer in answers)
    wall_s = sum(
        max(answer.end_s for answer in wave) - min(answer.sent_s for answer in wave)
        for wave in waves
    )
    firsts = [answer.first_token_s for answer in answers]
    gaps = sorted(gap for answer in answers for gap in answer.gaps_s) or [0.0]
    return Measured(
        tokens_per_s=num_tokens / wall_s,
        first_token_s=median(firsts),
        first_token_max_s=max(firsts),
        gap_s=median(gaps),
        gap_p99_s=gaps[int(0.99 * (len(gaps) - 1))],
        gap_max_s=gaps[-1],
        num_tokens=num_tokens,
        texts=[answer.text for answer in answers],
    )


class _Receiver(asyncio.Protocol):
    """Notes bytes and times; closes when the stream says that it is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pieces: list[Piece] = []
        self.closed: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))
        if END.encode() + b"\n\n" in data and self._transport is not None:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        del error
        if not self.closed.done():
            self.closed.set_result(None)
