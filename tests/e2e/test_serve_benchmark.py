"""The serving benchmark against real processes: measured, stopped, and named when they fail."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.provenance import ROOT
from benchmarks.serve_client import Load, build_body, run_load
from benchmarks.serve_server import SubjectError, start_server
from benchmarks.serve_subjects import Subject
from evoserve.manifest.load import load_manifest

RECIPE = ROOT / "models" / "recipes" / "mini-linear.json"
MODEL = load_manifest(RECIPE).name
OURS = Subject(
    "ours",
    (sys.executable, "-m", "evoserve", "serve", str(RECIPE), "--port", "{port}"),
    {"OMP_NUM_THREADS": "1"},
)
FIRST = build_body(MODEL, "1 + 1", 1)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_server_is_started_measured_and_gone() -> None:
    prompts = ["2 + 2", "3 + 3", "4 + 4", "5 + 5"]
    async with start_server(OURS, FIRST) as server:
        first = await run_load(server.port, MODEL, Load(2, 2), prompts, 6)
        again = await run_load(server.port, MODEL, Load(4, 1), prompts, 6)
        peak_bytes = server.peak_bytes()
    assert not is_alive(server.process.pid)
    assert first["num_tokens"] == again["num_tokens"] == 24
    assert first["texts"] == again["texts"]
    assert server.start_s > 0
    assert peak_bytes > 10**7


async def test_a_server_that_ends_at_once_is_named_with_its_log() -> None:
    code = "import sys; print('no such flag'); sys.exit(3)"
    subject = Subject("broken", (sys.executable, "-c", code))
    with pytest.raises(SubjectError, match=r"^broken: it ended.*code 3(.|\n)*no such flag"):
        async with start_server(subject, FIRST):
            pass


async def die_under_load() -> None:
    async with start_server(OURS, FIRST) as server:
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        await run_load(server.port, MODEL, Load(1, 1), ["6 + 6"], 6)


async def test_a_server_that_dies_under_load_is_named() -> None:
    with pytest.raises(SubjectError, match=r"^ours: .*ended with code -9"):
        await die_under_load()


async def test_a_request_that_is_refused_is_an_error_with_the_answer() -> None:
    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "{port}")
    with pytest.raises(SubjectError, match=r"^files: status 501.*Unsupported method"):
        async with start_server(Subject("files", command), FIRST):
            pass


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds children in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_no_server(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks.serve", "--quick", "--only", "evoserve f"]
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    assert "first token" in run.stderr.readline()
    (child,) = map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
    run.send_signal(number)
    _, rest = run.communicate(timeout=60)
    assert run.returncode == 1
    assert rest.splitlines()[-1].startswith("stopped")
    assert not is_alive(child)
