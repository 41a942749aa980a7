"""The tools of the trade find nothing wrong with deploy/: hadolint, compose, promtool."""

import json
import os
import subprocess
from pathlib import Path

from deploy_lab import BIN, DEPLOY, need_tool, read_compose


def run(*command: str, folder: Path = DEPLOY) -> "subprocess.CompletedProcess[str]":
    """The tool without anything of the caller's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def compose_config(*options: str) -> "subprocess.CompletedProcess[str]":
    """Compose's own reading of the file; it needs no engine."""
    tool = need_tool("docker-compose")
    return run(tool, "-f", "compose.yaml", *options, "config", "--format", "json")


def test_hadolint_has_nothing_to_say(tmp_path: Path) -> None:
    tool = need_tool("hadolint")
    said = run(tool, "--failure-threshold", "style", "Dockerfile")
    assert (said.returncode, said.stdout) == (0, "")
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\nCMD python\n")
    assert run(tool, "Dockerfile", folder=tmp_path).returncode == 1


def test_compose_takes_the_file_and_reads_it_as_these_tests_do() -> None:
    said = compose_config()
    assert said.returncode == 0, said.stderr
    assert said.stderr == ""
    read, ours = json.loads(said.stdout), read_compose()
    assert set(read["services"]) == set(ours["services"])
    assert set(read["secrets"]) == set(ours["secrets"])
    server, expected = read["services"]["server"], ours["services"]["server"]
    for name in ("command", "environment", "tmpfs", "stop_grace_period", "user", "read_only"):
        assert server[name] == expected[name], name
    mounted = {each["target"]: each.get("read_only", False) for each in server["volumes"]}
    assert mounted == {"/srv/models": True, "/srv/recipes": False, "/srv/state": False}
    assert [each["target"] for each in server["secrets"]] == [
        "/run/secrets/settings",
        "/run/secrets/api_keys",
    ]


def test_compose_hands_on_what_the_shell_sets() -> None:
    tool = need_tool("docker-compose")
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "EVOSERVE_DRAIN_S": "90"}
    said = subprocess.run(
        [tool, "-f", "compose.yaml", "config", "--format", "json"],
        cwd=DEPLOY,
        env={**environment, "STOP_GRACE": "100s", "RECIPES_MODE": "ro", "SECRETS": "/elsewhere"},
        capture_output=True,
        check=True,
    )
    read = json.loads(said.stdout)
    server = read["services"]["server"]
    assert server["environment"]["EVOSERVE_DRAIN_S"] == "90"
    assert server["environment"]["EVOSERVE_THREADS"] is None
    assert server["stop_grace_period"] == "1m40s"
    assert server["volumes"][1]["read_only"] is True
    assert read["secrets"]["api_keys"]["file"] == "/elsewhere/api_keys"


def test_promtool_takes_the_configuration_and_its_rules() -> None:
    tool = need_tool("promtool")
    said = run(tool, "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert said.returncode == 0, said.stderr
    said = run(tool, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
    assert said.returncode == 0, said.stderr
    assert "8 rules found" in said.stdout
