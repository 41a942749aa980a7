"""SIGTERM on the real command: running requests end, new ones get 503, a second signal ends it."""

import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.attack_lab import (
    Target,
    read_to_end,
    request_bytes,
    spawn_server,
    stream_body,
)

MANY = 500  # tokens: seconds of work, so that the signal comes in the middle


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Target]:
    with spawn_server(tmp_path, drain_s=20, log_format="json", max_num_seqs=8) as found:
        yield found


def start_stream(server: Target) -> tuple[socket.socket, bytes]:
    """A long stream whose first bytes have come."""
    sock = server.connect()
    body = stream_body(MANY, n=8)
    sock.sendall(request_bytes("/v1/completions", body, "Connection: close\r\n"))
    return sock, sock.recv(1)


def wait_draining(server: Target) -> None:
    for _ in range(1000):
        if httpx.get(f"{server.url}/ready").json()["status"] == "draining":
            return
    raise AssertionError("/ready never said draining")


def test_new_work_is_refused_while_running_work_ends(server: Target, tmp_path: Path) -> None:
    sock, first = start_stream(server)
    server.process.send_signal(signal.SIGTERM)
    wait_draining(server)
    body = {"model": "mini-dfs", "prompt": "1", "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/completions", json=body)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "overloaded"
    assert httpx.get(f"{server.url}/live").status_code == 200
    assert b"data: [DONE]" in first + read_to_end(sock)
    assert server.process.wait(30) == 0
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    done = [each for each in lines if each.get("status") == 200 and "recipe" in each]
    assert [each["completion_tokens"] for each in done] == [8 * MANY]
    assert [each["status"] for each in lines if each.get("status") == 503]
    assert not [each for each in lines if "error" in each]


def test_a_second_signal_ends_it_at_once(server: Target) -> None:
    sock, first = start_stream(server)
    server.process.send_signal(signal.SIGTERM)
    wait_draining(server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 128 + signal.SIGTERM
    assert b"data: [DONE]" not in first + read_to_end(sock)


def test_what_outlasts_the_drain_is_told_so(tmp_path: Path) -> None:
    """Streams end with an error event, whole answers with 503, bodies on their way, too."""
    with spawn_server(tmp_path, drain_s=0, log_format="json", max_num_seqs=16) as server:
        sock, first = start_stream(server)
        whole = server.connect()
        body = stream_body(MANY, n=8, stream=False)
        whole.sendall(request_bytes("/v1/completions", body, "Connection: close\r\n"))
        half = server.connect()
        half.sendall(request_bytes("/v1/completions", body)[:-1])
        while server.num_sequences() < 16:
            pass
        server.process.send_signal(signal.SIGTERM)
        streamed = first + read_to_end(sock)
        for answer in (read_to_end(whole), read_to_end(half)):
            assert answer.startswith(b"HTTP/1.1 503 "), answer
            assert b"retry-after: 1" in answer.lower()
            assert b'"code":"overloaded"' in answer
        assert server.process.wait(30) == 0
    event = json.loads(streamed.rpartition(b"data: ")[2].partition(b"\n\n")[0])
    assert event["error"]["code"] == "overloaded"
    assert "the server is stopping" in event["error"]["message"]
    assert streamed.endswith(b"\r\n0\r\n\r\n"), "the last chunk"
    assert "Traceback" not in (tmp_path / "log").read_text()
