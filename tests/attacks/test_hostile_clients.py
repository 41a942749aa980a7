"""Clients that leave, stall or crash: their work ends, their memory comes back."""

import asyncio
import json
import random
from pathlib import Path

import pytest

from tests.attack_lab import (
    read_to_end,
    request_bytes,
    reset,
    spawn_server,
    stream_body,
    stream_some,
)

COMPLETIONS = "/v1/completions"
NUM_CONNECTS = 1000
NUM_STREAMS = 200
MAX_TOKENS = 24


def test_a_thousand_connects_and_disconnects(target) -> None:
    """At every stage of a request, politely and by RST."""
    whole = request_bytes(COMPLETIONS, stream_body(MAX_TOKENS))
    stages = [b"", b"PO", whole[:60], whole[:-5], whole]
    open_at_once = []
    for number in range(NUM_CONNECTS):
        sock = target.connect()
        sock.sendall(stages[number % len(stages)])
        open_at_once.append(sock)
        if len(open_at_once) == 50:
            for index, each in enumerate(open_at_once):
                reset(each) if index % 2 else each.close()
            open_at_once.clear()
    target.check_alive()
    target.wait_whole()


@pytest.mark.parametrize("num_bytes", [0, 3, 60, -5])
def test_a_slow_writer_is_cut_off(target, num_bytes: int) -> None:
    whole = request_bytes(COMPLETIONS, stream_body(2))
    with target.connect() as sock:
        sock.sendall(whole[:num_bytes])
        received = read_to_end(sock)  # ends because the server closes
    assert not received or b" 408 " in received.split(b"\r\n")[0]


def test_a_drip_of_bytes_does_not_hold_a_connection(target) -> None:
    whole = request_bytes(COMPLETIONS, stream_body(2))
    with target.connect() as sock:
        sock.settimeout(0.2)
        for index in range(len(whole) - 1):
            try:
                sock.sendall(whole[index : index + 1])
                if not sock.recv(4096):
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    raise AssertionError("the server waited for the whole drip")


def test_a_reader_that_reads_nothing_is_cut_off(target) -> None:
    """Its sequences end, and the rest of its answer is not kept."""
    socks = []
    for _ in range(2):
        sock = target.connect(receive_bytes=4096)
        body = stream_body(150, n=8, logprobs=20)
        sock.sendall(request_bytes(COMPLETIONS, body))
        socks.append(sock)
    target.check_alive()
    target.wait_whole()
    for sock in socks:
        sock.close()


def test_a_reader_that_trickles_is_not_generated_for(tmp_path: Path) -> None:
    """What waits for it is bounded: its sequences end, and it is told when it reads on."""
    with spawn_server(tmp_path, max_unread_bytes=2**16) as server:
        sock = server.connect(receive_bytes=2048)
        body = stream_body(450, n=16, logprobs=20)
        sock.sendall(request_bytes(COMPLETIONS, body, "Connection: close\r\n"))
        received = sock.recv(1)
        while server.num_sequences():
            received += sock.recv(1)
        received += read_to_end(sock)
        server.check_alive()
    error = json.loads(received.rpartition(b"data: ")[2].partition(b"\n\n")[0])["error"]
    assert error["code"] == "overloaded"
    assert "of the answer wait to be read" in error["message"]
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_half_open_streams_end_with_their_clients(target) -> None:
    """Those that crash free their blocks; the others do not notice."""
    body = stream_body(MAX_TOKENS)
    socks = [target.connect() for _ in range(20)]
    for sock in socks:
        sock.sendall(request_bytes(COMPLETIONS, body, "Connection: close\r\n"))
    for sock in socks[10:]:
        reset(sock)
    for sock in socks[:10]:
        assert b"data: [DONE]" in read_to_end(sock)
        sock.close()
    target.wait_whole()


def test_pipelined_requests_are_answered_in_order(target) -> None:
    one = request_bytes("/tokenize", b'{"model": "mini-dfs", "prompt": "1"}')
    with target.connect() as sock:
        last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
        sock.sendall(one * 19 + last)
        received = read_to_end(sock)
    assert received.count(b"HTTP/1.1 200") == 20


def test_two_hundred_streams_with_random_aborts(target) -> None:
    rng = random.Random(7)
    counts = [None if rng.random() < 0.3 else rng.randrange(MAX_TOKENS) for _ in range(NUM_STREAMS)]

    async def attack() -> list[bytes]:
        body = stream_body(MAX_TOKENS)
        return await asyncio.gather(*(stream_some(target.port, body, n) for n in counts))

    answers = asyncio.run(attack())
    whole = [answer for answer, count in zip(answers, counts, strict=True) if count is None]
    assert len(whole) > 30
    assert all(b"data: [DONE]" in answer for answer in whole)
    assert all(b'"error"' not in answer for answer in answers)
    target.wait_whole()


def test_memory_is_flat_over_rounds_of_aborts(target) -> None:
    """What the third to fifth round add is less than a request could keep if one leaked."""
    rng = random.Random(8)

    async def attack() -> None:
        body = stream_body(MAX_TOKENS, prompt="1 + 2 = " * 8)
        counts = [rng.randrange(1, MAX_TOKENS) for _ in range(60)]
        await asyncio.gather(*(stream_some(target.port, body, n) for n in counts))

    sizes = []
    for _ in range(5):
        asyncio.run(attack())
        target.wait_whole()
        sizes.append(target.rss_bytes())
    assert sizes[-1] - sizes[1] < 24 * 2**20, sizes
