"""A streamed HTTP answer, read after it has come: status, and each event with its arrival time.

The client only notes what arrived when, so that it leaves the cores to the server; the reading is
done when nobody is waiting.
"""

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

END = "[DONE]"
Piece = tuple[float, bytes]


class BrokenAnswerError(Exception):
    """A server answered with an error, or not to the end."""


@dataclass(frozen=True)
class Answer:
    """One stream. sent_s, token_s: clock times of the request and of every chunk with text."""

    sent_s: float
    token_s: tuple[float, ...]
    end_s: float
    num_tokens: int
    text: str

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to the first text."""
        return self.token_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between chunks with text."""
        return [b - a for a, b in zip(self.token_s, self.token_s[1:], strict=False)]


def read_answer(sent_s: float, pieces: Sequence[Piece]) -> Answer:
    """The stream in the bytes that came. Raises BrokenAnswerError with the end of what came."""
    status, events = read_events(pieces)
    if status != 200 or not events or events[-1][1] != END:
        raise BrokenAnswerError(f"status {status}, no {END}: {_tail(pieces)}")
    token_s, texts, num_tokens = [], [], 0
    for time_s, data in events[:-1]:
        chunk: dict[str, Any] = json.loads(data)
        if "error" in chunk:
            raise BrokenAnswerError(data)
        num_tokens = (chunk.get("usage") or {}).get("completion_tokens", num_tokens)
        text = "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        if text:
            token_s.append(time_s)
            texts.append(text)
    if not token_s or not num_tokens:
        raise BrokenAnswerError(f"{len(token_s)} chunks of text, usage {num_tokens}")
    return Answer(sent_s, tuple(token_s), events[-1][0], num_tokens, "".join(texts))


def read_events(pieces: Sequence[Piece]) -> tuple[int, list[tuple[float, str]]]:
    """Status and (arrival of its last byte, data) of every server-sent event."""
    raw = b"".join(data for _, data in pieces)
    head, gap, _ = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    words = lines[0].split()
    if not gap or len(words) < 2 or not words[1].isdigit():
        return 0, []
    start = len(head) + len(gap)
    is_chunked = b"transfer-encoding: chunked" in lines
    parts = list(_chunks(raw, start)) if is_chunked else [(start, raw[start:])]
    body = b"".join(data for _, data in parts)
    places = list(accumulate((len(data) for _, data in parts), initial=0))
    arrived = list(accumulate(len(data) for _, data in pieces))
    events, begin = [], 0
    while (end := body.find(b"\n\n", begin)) >= 0:
        part = bisect_right(places, end + 1) - 1
        offset = parts[part][0] + end + 1 - places[part]
        time_s = pieces[bisect_right(arrived, offset)][0]
        events += [(time_s, data) for data in _data(body[begin:end])]
        begin = end + 2
    return int(words[1]), events


def _chunks(raw: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of every chunk that came whole."""
    while (end := raw.find(b"\r\n", start)) >= 0:
        size = int(raw[start:end].split(b";")[0], 16)
        begin = end + 2
        if size == 0 or len(raw) < begin + size:
            return
        yield begin, raw[begin : begin + size]
        start = begin + size + 2


def _data(event: bytes) -> Iterator[str]:
    """The data lines of an event; comments and names are passed over."""
    for line in event.decode("utf-8").splitlines():
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()


def _tail(pieces: Sequence[Piece]) -> str:
    text = b"".join(data for _, data in pieces)[-400:].decode("utf-8", "replace")
    return " ".join(text.split()) or "nothing came"
