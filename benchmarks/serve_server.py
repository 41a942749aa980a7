"""One server as a process: started on a free port, watched, and gone whatever happens."""

import asyncio
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.provenance import ROOT
from benchmarks.serve_client import ask
from benchmarks.serve_subjects import Subject
from benchmarks.serve_wire import BrokenAnswerError, read_answer

START_S, STOP_S = 300.0, 15.0
PROC = Path("/proc")
_POLL_S = 0.02
_LOG_LINES = 15


class SubjectError(Exception):
    """A server did not start, died, hung or answered badly; says which and how its log ends."""


@dataclass(frozen=True)
class Running:
    """A server that answers. start_s: from the process's start to the first token."""

    port: int
    process: subprocess.Popen[bytes]
    start_s: float

    def peak_bytes(self) -> int:
        """Peak resident memory summed over its processes, mapped files included; 0 if unknown."""
        return sum(_peak_bytes(folder, self.process.pid) for folder in PROC.glob("[0-9]*"))


@asynccontextmanager
async def start_server(subject: Subject, first: bytes) -> AsyncIterator[Running]:
    """Start, wait for the first token of the request `first`, stop at the end.

    Raises SubjectError, also for what goes wrong with the server inside of the block.
    """
    for file in subject.files:
        _read_through(file)
    port, started_s = free_port(), time.perf_counter()
    with tempfile.TemporaryFile() as log, _process(subject, port, log) as process:
        try:
            async with asyncio.timeout(START_S):
                token_s = await _first_token(process, port, first)
            yield Running(port, process, token_s - started_s)
        except (BrokenAnswerError, OSError, TimeoutError) as error:
            raise SubjectError(_explain(subject, process, log, error)) from error


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def _process(subject: Subject, port: int, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Its own process group, so that nothing of it outlives the block."""
    process = subprocess.Popen(
        [word.replace("{port}", str(port)) for word in subject.command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, **subject.environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def _first_token(process: subprocess.Popen[bytes], port: int, first: bytes) -> float:
    """When the first token came. Raises BrokenAnswerError if the process ends before."""
    while True:
        with suppress(ConnectionError):
            sent_s, pieces = await ask(port, first)
            if not _is_loading(pieces[0][1] if pieces else b""):
                return read_answer(sent_s, pieces).token_s[0]
        if process.poll() is not None:
            raise BrokenAnswerError("it ended before it answered")
        await asyncio.sleep(_POLL_S)


def _is_loading(first_bytes: bytes) -> bool:
    return not first_bytes or first_bytes.split(b" ", 2)[1:2] == [b"503"]


def _explain(
    subject: Subject, process: subprocess.Popen[bytes], log: IO[bytes], error: Exception
) -> str:
    code = process.poll()
    state = "still runs" if code is None else f"ended with code {code}"
    log.seek(0)
    lines = log.read().decode("utf-8", "replace").splitlines()[-_LOG_LINES:]
    reason = str(error) or "no answer in time"
    return "\n  ".join([f"{subject.name}: {reason} (the process {state}); its log:", *lines])


def _read_through(file: Path) -> None:
    with file.open("rb") as opened:
        while opened.read(1 << 24):
            pass


def _peak_bytes(folder: Path, group: int) -> int:
    """The kernel's high-water mark of a process, 0 if it is not of the group or has ended."""
    with suppress(OSError):
        after_name = (folder / "stat").read_text("utf-8", "replace").rpartition(")")[2]
        if int(after_name.split()[2]) == group:
            for line in (folder / "status").read_text("utf-8", "replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    return 0
