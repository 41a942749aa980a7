"""A streamed answer is read the same, however the network cut it."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serve_client import measure
from benchmarks.serve_wire import Answer, BrokenAnswerError, Piece, read_answer, read_events

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"


def event(text: str | None, **fields: object) -> bytes:
    choices = [] if text is None else [{"delta": {"content": text}}]
    return f"data: {json.dumps({'choices': choices, **fields})}\n\n".encode()


def stream(texts: list[str]) -> bytes:
    usage = event(None, usage={"completion_tokens": len(texts)})
    return b": hello\n\n" + b"".join(map(event, ["", *texts])) + usage + b"data: [DONE]\n\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


def pack(chunks: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


def timed(parts: list[bytes]) -> list[Piece]:
    return [(float(number), part) for number, part in enumerate(parts)]


TEXTS = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=6)
PLACES = st.lists(st.integers(0, 10_000), max_size=12)


@given(texts=TEXTS, chunk_places=PLACES, piece_places=PLACES, is_chunked=st.booleans())
def test_any_cut_gives_the_same_answer_and_times_of_the_last_byte(
    texts: list[str], chunk_places: list[int], piece_places: list[int], is_chunked: bool
) -> None:
    body = stream(texts)
    raw = HEAD + pack(cut(body, chunk_places)) if is_chunked else PLAIN + body
    pieces = timed(cut(raw, piece_places))
    answer = read_answer(-1.0, pieces)
    assert answer.text == "".join(texts)
    assert answer.num_tokens == len(texts)
    assert list(answer.token_s) == sorted(answer.token_s)
    assert len(answer.token_s) == len(texts)
    if not is_chunked:
        ends = [len(PLAIN) + body.index(event(texts[0])) + len(event(texts[0]))]
        arrived = 0
        for time_s, data in pieces:
            arrived += len(data)
            if arrived >= ends[0]:
                assert answer.token_s[0] == time_s
                break


def test_each_chunk_in_a_piece_of_its_own_has_its_own_time() -> None:
    parts = [event("a"), event("b"), event(None, usage={"completion_tokens": 2})]
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b"data: [DONE]\n\n"]]
    answer = read_answer(0.0, timed([HEAD, *chunks, b"0\r\n\r\n"]))
    assert answer.token_s == (1.0, 2.0)
    assert answer.end_s == 4.0
    assert answer.first_token_s == 1.0
    assert answer.gaps_s == [1.0]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "nothing came"),
        (b"HTTP/1.1 503 Busy\r\n\r\nloading", "status 503.*loading"),
        (PLAIN + event("a"), r"no \[DONE\]"),
        (PLAIN + event("a", error={"message": "out of blocks"}) + b"data: [DONE]\n\n", "out of"),
        (PLAIN + event("a") + b"data: [DONE]\n\n", "usage 0"),
        (PLAIN + stream([""]), "0 chunks"),
        (b"220 smtp.example\r\n\r\n", "status 0"),
    ],
)
def test_what_is_no_whole_stream_is_refused_with_what_came(raw: bytes, words: str) -> None:
    with pytest.raises(BrokenAnswerError, match=words):
        read_answer(0.0, [(0.0, raw)] if raw else [])


def test_a_chunk_that_did_not_come_whole_is_no_event() -> None:
    whole = pack([event("a")])
    status, events = read_events([(0.0, HEAD + whole[:-9])])
    assert (status, events) == (200, [])


def test_a_load_counts_each_wave_from_first_request_to_last_end() -> None:
    def answer(sent_s: float, *times: float) -> Answer:
        return Answer(sent_s, times, times[-1], len(times), "x")

    waves = [[answer(0.0, 1.0, 2.0), answer(0.0, 2.0, 4.0)], [answer(10.0, 11.0, 12.0)]]
    found = measure(waves)
    assert found["num_tokens"] == 6
    assert found["tokens_per_s"] == 6 / (4.0 + 2.0)
    assert (found["first_token_s"], found["first_token_max_s"]) == (1.0, 2.0)
    assert (found["gap_s"], found["gap_max_s"]) == (1.0, 2.0)
