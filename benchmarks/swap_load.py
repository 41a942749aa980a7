"""Streams without pause on one alias, and what they say: whose tokens, how long the silences."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypedDict

from benchmarks.serve_client import ask, build_body
from benchmarks.serve_wire import Answer, BrokenAnswerError, Piece, read_answer

RECIPE_HEADER = b"x-evoserve-recipe: "
Window = tuple[float, float]


@dataclass(frozen=True)
class Wish:
    """What one client asks for, again and again."""

    prompt: str
    num_tokens: int


@dataclass(frozen=True)
class Stream:
    """One answer and the recipe that its header names."""

    client: int
    recipe: str
    answer: Answer


@dataclass
class Heard:
    """What all clients heard; `broken` are the messages of streams that failed."""

    streams: list[Stream] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Gaps(TypedDict):
    """Seconds between two chunks of one stream, over many streams."""

    count: int
    median_s: float
    p99_s: float
    max_s: float
    max_over_median: float


async def stream_without_pause(
    port: int, model: str, wishes: Sequence[Wish], stop: asyncio.Event
) -> Heard:
    """One client per wish, each asking again as soon as its answer has ended, until `stop`."""
    heard = Heard()

    async def keep_asking(client: int, wish: Wish) -> None:
        body = build_body(model, wish.prompt, wish.num_tokens)
        while not stop.is_set():
            sent_s, pieces = await ask(port, body)
            try:
                heard.streams.append(_read(client, sent_s, pieces, wish.num_tokens))
            except BrokenAnswerError as error:
                heard.broken.append(str(error))

    await asyncio.gather(*(keep_asking(client, wish) for client, wish in enumerate(wishes)))
    return heard


async def ask_once(port: int, model: str, wishes: Sequence[Wish]) -> list[Stream]:
    """One answer per wish, all at once. Raises BrokenAnswerError."""
    bodies = [build_body(model, wish.prompt, wish.num_tokens) for wish in wishes]
    raw = await asyncio.gather(*(ask(port, body) for body in bodies))
    answers = zip(raw, wishes, strict=True)
    return [_read(n, *each, wish.num_tokens) for n, (each, wish) in enumerate(answers)]


def measure_gaps(streams: Sequence[Stream], windows: Sequence[Window] | None = None) -> Gaps:
    """Of all gaps, or of those that overlap one of the windows."""
    gaps = sorted(
        end - start
        for stream in streams
        for start, end in zip(stream.answer.token_s, stream.answer.token_s[1:], strict=False)
        if windows is None or any(start < last and first < end for first, last in windows)
    ) or [0.0]
    middle = median(gaps)
    return {
        "count": len(gaps),
        "median_s": middle,
        "p99_s": gaps[int(0.99 * (len(gaps) - 1))],
        "max_s": gaps[-1],
        "max_over_median": gaps[-1] / middle if middle else 0.0,
    }


def _read(client: int, sent_s: float, pieces: Sequence[Piece], num_tokens: int) -> Stream:
    answer = read_answer(sent_s, pieces)
    if answer.num_tokens != num_tokens:
        raise BrokenAnswerError(f"{answer.num_tokens} tokens, asked: {num_tokens}")
    head = b"".join(data for _, data in pieces).partition(b"\r\n\r\n")[0]
    named = [line for line in head.lower().split(b"\r\n") if line.startswith(RECIPE_HEADER)]
    if len(named) != 1:
        raise BrokenAnswerError(f"{len(named)} headers name the recipe")
    return Stream(client, named[0][len(RECIPE_HEADER) :].decode(), answer)
