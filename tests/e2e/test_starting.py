"""A server that is still loading: it answers probes, says so, and serves what is there already."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from evoserve.api.registry import Registry
from evoserve.api.server import serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.errors import SourceError
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.manifest.load import load_manifest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "models" / "recipes"


def parts() -> tuple[Settings, TorchEngine, Registry, Lifecycle]:
    settings = Settings(
        port=0, threads=1, kv_cache_bytes=2**20, catalogue=ROOT / "models" / "catalogue.toml"
    )
    engine, registry = TorchEngine(settings), Registry()
    return settings, engine, registry, Lifecycle(settings, engine, registry)


async def test_what_is_not_loaded_yet_is_503_and_what_is_answers() -> None:
    settings, engine, registry, lifecycle = parts()
    told: list[tuple[str, int, object]] = []

    async def beside(port: int) -> None:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            async def ask(model: str) -> httpx.Response:
                return await client.post("/v1/completions", json={"model": model, "prompt": "1"})

            with lifecycle.starting():
                await lifecycle.register(load_manifest(RECIPES / "mini-dfs.json"))
                for path in ("/live", "/health", "/ready", "/v1/models/mini-ties"):
                    answer = await client.get(path)
                    told.append((path, answer.status_code, answer.headers.get("retry-after")))
                told.append(("status", 0, (await client.get("/ready")).json()["status"]))
                for model in ("mini-dfs", "mini-ties"):
                    answer = await ask(model)
                    told.append((model, answer.status_code, answer.headers.get("retry-after")))
            told.append(("then", (await client.get("/ready")).status_code, None))
            told.append(("then", (await ask("mini-ties")).status_code, None))
        task.cancel()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(serve(settings, engine, registry, lifecycle, beside=beside))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == [
        ("/live", 200, None),
        ("/health", 200, None),
        ("/ready", 503, None),
        ("/v1/models/mini-ties", 503, "1"),
        ("status", 0, "loading"),
        ("mini-dfs", 200, None),
        ("mini-ties", 503, "1"),
        ("then", 200, None),
        ("then", 404, None),
    ]


async def test_what_fails_beside_serving_ends_it_and_is_raised() -> None:
    settings, engine, registry, lifecycle = parts()

    async def beside(port: int) -> None:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/live")).status_code == 200
        raise SourceError("no such source")

    with pytest.raises(SourceError, match="no such source"):
        await serve(settings, engine, registry, lifecycle, beside=beside)


def command(folder: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evoserve", "serve", "--threads", "1", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
    )


def test_a_recipe_that_cannot_be_loaded_ends_the_command(tmp_path: Path) -> None:
    document = json.loads((RECIPES / "mini-dfs.json").read_text())
    document["sources"] = {name: {"model": "mini/none"} for name in document["sources"]}
    (tmp_path / "bad.json").write_text(json.dumps(document))
    process = command(tmp_path, "--port", "0", RECIPES / "mini-ties.json", tmp_path / "bad.json")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "mini-ties@" in said
    assert "Serving" not in said
    assert "mini/none" in (tmp_path / "log").read_text()


def test_a_port_that_is_taken_is_told_before_anything_is_built(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = command(tmp_path, "--port", port, RECIPES / "mini-ties.json")
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "mini-ties" not in said
    assert f"cannot listen on 127.0.0.1:{port}" in (tmp_path / "log").read_text()


def test_sigterm_while_recipes_are_loaded_is_a_clean_end(tmp_path: Path) -> None:
    process = command(tmp_path, "--port", "0", RECIPES)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("  mini-")  # the first of many
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Serving" not in said
