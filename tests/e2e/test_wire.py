"""Bytes on the wire, clients that leave, and signals."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

CHAT = "/v1/chat/completions"
ENDLESS = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 900,
    "ignore_eos": True,
    "n": 4,
}


def send_raw(port: int, body: dict[str, object]) -> socket.socket:
    raw = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    sock.sendall(f"{head}Connection: close\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    return sock


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while part := sock.recv(65536):
        received += part
    return received


def gauges(url: str) -> dict[str, float]:
    """Running and waiting sequences, and the share of blocks in use."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return {
        line.partition("{")[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(names)
    }


def wait_until(url: str, condition) -> dict[str, float]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = gauges(url)
        if condition(found):
            return found
    raise AssertionError(f"not reached within 30 seconds: {found}")


def is_idle(found: dict[str, float]) -> bool:
    return not any(found.values())


def test_the_stream_is_server_sent_events(live) -> None:
    body = {**ENDLESS, "n": 1, "max_tokens": 3, "stream": True}
    sock = send_raw(live.port, {**body, "stream_options": {"include_usage": True}})
    head, _, rest = read_all(sock).partition(b"\r\n\r\n")
    headers = head.decode().lower().split("\r\n")
    assert headers[0] == "http/1.1 200 ok"
    assert "content-type: text/event-stream; charset=utf-8" in headers
    assert "cache-control: no-cache" in headers
    assert "x-accel-buffering: no" in headers
    assert f"x-evoserve-recipe: {live.model_id}" in headers
    events = unchunk(rest).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    assert all(event.startswith(b"data: ") and b"\n" not in event for event in events[:-1])
    parsed = [json.loads(event[6:]) for event in events[:-2]]
    assert parsed[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert parsed[-2]["choices"] == [
        {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    ]
    assert parsed[-1]["choices"] == []
    assert parsed[-1]["usage"]["completion_tokens"] == 3
    assert all(chunk["usage"] is None for chunk in parsed[:-1])
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}


@pytest.mark.parametrize("is_trailer", [False, True])
def test_a_head_without_end_is_cut_off(live, is_trailer: bool) -> None:
    line = b"X-Fill: " + b"a" * 1000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", live.port), timeout=30) as sock:
        sock.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode())
        if is_trailer:
            sock.sendall(b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
        with pytest.raises(OSError):  # the other side has closed
            sock.sendall(line * 16_000)


def test_a_long_head_is_taken(live) -> None:
    assert httpx.get(f"{live.url}/health", headers={"X-Fill": "a" * 50_000}).status_code == 200


def unchunk(raw: bytes) -> bytes:
    """The body of a chunked answer."""
    body = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        if int(size, 16) == 0:
            return body
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_blocks(live, stream: bool) -> None:
    wait_until(live.url, is_idle)
    before = num_aborted(live.url)
    sock = send_raw(live.port, {**ENDLESS, "stream": stream})
    wait_until(live.url, lambda found: found["vllm:num_requests_running"] == 4)
    sock.close()
    wait_until(live.url, is_idle)
    assert num_aborted(live.url) == before + 4


def num_aborted(url: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    found = [line for line in lines if 'finished_reason="abort"' in line and "_created" not in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


CHILD = """
import sys
from pathlib import Path
from evoserve.api.registry import Registry, describe
from evoserve.api.server import run, serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.manifest.load import build_manifest
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

async def main():
    folder, drain_s = Path(sys.argv[1]), int(sys.argv[2])
    settings = Settings(port=0, threads=1, drain_s=drain_s)
    source = {"base": {"model": str(folder)}}
    manifest = build_manifest({"format": "evoserve/1", "name": "tiny", "sources": source})
    recipe = Recipe(manifest, {"base": open_checkpoint(folder)})
    engine, registry = TorchEngine(settings), Registry()
    registry.add(describe(recipe, await engine.load(recipe)))
    await serve(settings, engine, registry,
                on_bound=lambda port: print(port, flush=True))
    print("closed", flush=True)

run(main())
"""


def spawn(folder: Path, drain_s: int) -> tuple["subprocess.Popen[str]", int]:
    command = [sys.executable, "-c", CHILD, str(folder), str(drain_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_sigterm_lets_a_request_end(folder: Path) -> None:
    process, port = spawn(folder, 30)
    try:
        sock = send_raw(port, {**ENDLESS, "n": 1, "max_tokens": 300, "stream": True})
        first = sock.recv(1)
        process.send_signal(signal.SIGTERM)
        received = first + read_all(sock)
        assert b"data: [DONE]" in received
        assert process.communicate(timeout=30)[0] == "closed\n"
        assert process.returncode == 0
    finally:
        process.kill()


def test_sigterm_is_bounded(folder: Path) -> None:
    process, port = spawn(folder, 0)
    try:
        sock = send_raw(port, {**ENDLESS, "stream": True})
        first = sock.recv(1)
        process.send_signal(signal.SIGTERM)
        received = first + read_all(sock)
        assert b"data: [DONE]" not in received
        assert process.communicate(timeout=30)[0] == "closed\n"
        assert process.returncode == 0
    finally:
        process.kill()
