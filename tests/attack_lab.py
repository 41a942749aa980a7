"""A server process to attack, raw sockets to do it with, and what must hold afterwards."""

import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
ADMIN = {"Authorization": "Bearer admin-secret"}
JSON = {"Content-Type": "application/json"}
MODEL = "mini-dfs"
ANY_PATH = re.compile(r"(/(home|work|tmp|usr|etc|srv|root|opt)\b|Traceback|\.py\b)")


@dataclass(frozen=True)
class Target:
    """A running server."""

    process: "subprocess.Popen[str]"
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        """A raw connection, its receive buffer as small as asked for."""
        sock = socket.socket()
        if receive_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(30)
        sock.connect(("127.0.0.1", self.port))
        return sock

    def rss_bytes(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def metrics(self) -> dict[str, float]:
        """Every sample by name and labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return {
            name: float(value)
            for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")
        }

    def answers_by_status(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, value in self.metrics().items():
            if value and name.startswith("evoserve:http_requests_total"):
                status = re.search(r'status="(\d+)"', name)[1]
                found[status] = found.get(status, 0) + value
        return found

    def num_sequences(self) -> float:
        """Those that run or wait."""
        held = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return sum(value for name, value in self.metrics().items() if name.startswith(held))

    def wait_whole(self) -> None:
        """Until nothing runs or waits and every block is free."""
        end = time.monotonic() + 30
        gauges = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage")
        while time.monotonic() < end:
            held = {n: v for n, v in self.metrics().items() if n.startswith(gauges) and v}
            if not held:
                return
        raise AssertionError(f"still held after 30 s: {held}")

    def check_alive(self) -> None:
        """It still generates."""
        body = {"model": MODEL, "prompt": "1 + 1 =", "max_tokens": 2, "ignore_eos": True}
        answer = httpx.post(f"{self.url}/v1/completions", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 2


@contextmanager
def spawn_server(folder: Path, **settings: object) -> Iterator[Target]:
    """`evoserve serve` of one mini recipe, as a process of its own; its log goes to `folder`."""
    given = {f"EVOSERVE_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "EVOSERVE_THREADS": "1", **given}
    command = [sys.executable, "-m", "evoserve", "serve", "--port", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, str(ROOT / "models/recipes/mini-dfs.json")],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    heard = []
    for line in process.stdout:
        heard.append(line)
        if bound := re.search(r"Serving on http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        raise AssertionError("".join(heard) + (folder / "log").read_text())
    try:
        yield Target(process, int(bound.group(1)))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def request_bytes(path: str, body: bytes, head: str = "") -> bytes:
    """A POST with a JSON body; `head`: further header lines."""
    lines = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{head}"
    return f"{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def stream_body(max_tokens: int, **fields: object) -> bytes:
    fixed = {"model": MODEL, "prompt": "7 * 8 =", "ignore_eos": True, "stream": True}
    return json.dumps({**fixed, "max_tokens": max_tokens, **fields}).encode()


def read_to_end(sock: socket.socket) -> bytes:
    """Whatever comes until the other side closes, by whichever means."""
    received = b""
    try:
        while part := sock.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


def reset(sock: socket.socket) -> None:
    """Close with RST, as a crashed client does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def stream_some(port: int, body: bytes, num_events: int | None) -> bytes:
    """Read that many events of a stream, None: all, then drop the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(request_bytes("/v1/completions", body, "Connection: close\r\n"))
        while num_events is None or received.count(b"data: ") < num_events:
            part = await reader.read(65536)
            if not part:
                break
            received += part
    finally:
        writer.transport.abort()
    return received


def check_refusal(status: int, text: str) -> None:
    """A 4xx of OpenAI's shape that tells nothing of the machine."""
    assert 400 <= status < 500, (status, text)
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert not ANY_PATH.search(text), text
