"""The commands of docs/operations.md do what it says, in the order in which it has them."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from deploy_lab import ROOT

from evoserve.cli.main import main
from evoserve.cli.output import console
from evoserve.config import Settings, load_settings
from tests.attack_lab import Target, spawn_server

TEXT = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
IN_CONTAINERS = ("docker compose", "export RUN_AS=", "export EVOSERVE_URL=")


def commands(heading: str) -> list[str]:
    """The indented lines of a section, without comments."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]
    lines = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def shell_lines() -> list[str]:
    """What the section on deploying has a shell do, without an engine."""
    return [line for line in commands("Deploy") if not line.startswith(IN_CONTAINERS)]


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout's folder after the commands that make the secrets."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "deploy").mkdir()
    making = [line for line in shell_lines() if re.match("mkdir|python3|chmod", line)]
    assert len(making) == 4
    subprocess.run(["sh", "-euc", "\n".join(making)], cwd=folder, check=True)
    return folder / "deploy/secrets"


@pytest.fixture(scope="module")
def server(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that has read them."""
    key = load_settings(secrets / "settings.toml").admin_key
    given = {"admin_key": key, "api_key_file": secrets / "api_keys"}
    with spawn_server(tmp_path_factory.mktemp("log"), **given) as found:
        yield found


@pytest.fixture
def environment(server: Target, secrets: Path) -> dict[str, str]:
    """What the exported variables hold, found as the section says."""
    exports = [line for line in shell_lines() if line.startswith("export")]
    assert len(exports) == 2
    script = "\n".join([*exports, "env -0"])
    said = subprocess.run(
        ["sh", "-euc", script], cwd=secrets.parents[1], capture_output=True, text=True, check=True
    )
    set_there = dict(pair.split("=", 1) for pair in said.stdout.rstrip("\0").split("\0"))
    assert set_there["EVOSERVE_ADMIN_KEY"]
    return {**set_there, "EVOSERVE_URL": server.url}


@pytest.fixture
def run(
    environment: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], str]:
    """Runs a command of the runbook and returns what it prints; `evoserve` runs in this process."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(console, "width", 200)
    for name in ("EVOSERVE_URL", "EVOSERVE_ADMIN_KEY", "EVOSERVE_API_KEY"):
        monkeypatch.setenv(name, environment[name])

    def call(command: str) -> str:
        if not command.startswith("evoserve "):
            return subprocess.run(
                ["sh", "-euc", command], capture_output=True, text=True, check=True
            ).stdout
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as caught:
            main()
        said = capsys.readouterr()
        assert not caught.value.code, said.err
        return said.out

    return call


def alias(server: Target, environment: dict[str, str]) -> list[tuple[str, float]]:
    """(plain name, weight) of what `prod` leads to."""
    headers = {"Authorization": f"Bearer {environment['EVOSERVE_ADMIN_KEY']}"}
    card = httpx.get(f"{server.url}/v1/aliases/prod", headers=headers).json()
    return [(each["recipe"].split("@")[0], each["weight"]) for each in card["targets"]]


def test_the_secrets_are_private_and_what_the_server_reads(secrets: Path) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o700
    names = {file.name: file.stat().st_mode & 0o777 for file in secrets.iterdir()}
    assert names == {"api_keys": 0o600, "settings.toml": 0o600}
    assert len(load_settings(secrets / "settings.toml").admin_key or "") > 30


def test_deploying_ends_with_an_answer(run: Callable[[str], str]) -> None:
    lines = [line for line in shell_lines() if re.match("curl|evoserve", line)]
    assert len(lines) == 3
    ready, answer, listed = map(run, lines)
    assert json.loads(ready)["status"] == "ready"
    assert json.loads(answer)["choices"][0]["message"]["content"]
    assert re.search(r"mini-dfs@\S+ +ready", listed)


def test_swap_canary_and_rollback(
    run: Callable[[str], str], server: Target, environment: dict[str, str]
) -> None:
    for command in commands("Swap a recipe"):
        said = run(command)
    assert "prod -> mini-ties@" in said
    assert alias(server, environment) == [("mini-ties", 1)]
    seen = []
    for command in commands("Try it as a canary"):
        said = run(command)
        seen.append(alias(server, environment))
        if command == "evoserve recipes list":
            assert len(re.findall(r"mini-\S+ +ready", said)) == 2
    assert seen[1] == [("mini-ties", 9), ("mini-dfs", 1)]
    assert seen[-1] == [("mini-dfs", 1)]
    back = commands("Roll back")
    assert len(back) == 2
    run(back[0])
    assert alias(server, environment) == [("mini-ties", 9), ("mini-dfs", 1)]
    run(back[1])
    assert alias(server, environment) == [("mini-ties", 1)]


def test_sizes_are_predicted_and_shown(run: Callable[[str], str]) -> None:
    predict, show = commands("Size memory")
    shown = re.search(r"```text\n(ok .*?)```", TEXT, re.DOTALL)[1]
    assert without_times(run(predict)) == without_times(shown)
    assert re.search(r"^evoserve:weight_bytes [1-9]", run(show), re.MULTILINE)
    assert "evoserve:recipe_kv_cache_bytes{" in run(show)


def without_times(text: str) -> list[str]:
    return [re.sub(r", about \S+ s to build", "", line) for line in text.split("\n")]


def test_every_setting_that_is_named_exists() -> None:
    settings = {f"EVOSERVE_{name.upper()}" for name in Settings.model_fields}
    named = set(re.findall(r"\bEVOSERVE_[A-Z_]+", TEXT))
    assert len(named) > 20
    assert named <= settings | {"EVOSERVE_URL"}
