"""The real command, killed in the middle of changes: nothing that it answered is lost."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx

from tests.attack_lab import ROOT, Target, spawn_server

NUM_CHANGES = 5
RECIPES = ("mini-ties", "mini-dfs")


def register(server: Target, name: str) -> None:
    document = (ROOT / "models" / "recipes" / f"{name}.json").read_bytes()
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/recipes", content=document, headers=headers, timeout=180)
    assert answer.is_success, answer.text


def point(server: Target, name: str) -> int:
    """The version of the alias once it leads to a recipe."""
    url = f"{server.url}/v1/aliases/prod"
    return httpx.put(url, json={"recipe": name}, timeout=180).json()["version"]


def ask(server: Target, model: str) -> str:
    """The recipe that answered."""
    body = {"model": model, "prompt": "1", "max_tokens": 1}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=180)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-evoserve-recipe"]


def kill_while_changing(server: Target) -> list[int]:
    """SIGKILL while an alias moves to and fro and a recipe is built; the answered versions."""
    answered: list[int] = []
    enough = threading.Event()

    def change() -> None:
        try:
            while True:
                answered.append(point(server, RECIPES[len(answered) % 2]))
                if len(answered) == NUM_CHANGES:
                    enough.set()
        except httpx.HTTPError:
            return

    thread = threading.Thread(target=change)
    thread.start()
    assert enough.wait(180)
    answer = httpx.post(f"{server.url}/v1/recipes/mini-ps-dfs/load?wait=false", timeout=60)
    assert answer.json()["state"] == "queued"
    server.process.kill()
    thread.join(180)
    assert server.process.wait(180) == -signal.SIGKILL
    return answered


def test_a_killed_server_goes_on_where_it_was(tmp_path: Path) -> None:
    settings = {"state": tmp_path / "state.db", "kv_cache_bytes": 2**21, "load_timeout_s": 180}
    with spawn_server(tmp_path, **settings) as server:
        for name in ("mini-ties", "mini-ps-dfs"):
            register(server, name)
        second = subprocess.run(
            [sys.executable, "-m", "evoserve", "serve", "--state", settings["state"]],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert second.returncode == 2
        assert f"in use by process {server.process.pid}" in second.stderr.replace("\n", " ")
        answered = kill_while_changing(server)
    with spawn_server(tmp_path, **settings) as server:
        card = httpx.get(f"{server.url}/v1/aliases/prod").json()
        assert card["version"] in (answered[-1], answered[-1] + 1)  # one may be stored, not told
        assert [each["version"] for each in card["history"]] == list(range(card["version"], 0, -1))
        target = card["targets"][0]["recipe"]
        assert target.startswith(RECIPES[(card["version"] - 1) % 2])
        assert ask(server, "prod") == target
        assert ask(server, "mini-ps-dfs").startswith("mini-ps-dfs@")
