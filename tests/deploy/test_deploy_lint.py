"""The tools of the trade find nothing wrong with deploy/: hadolint, compose, promtool."""

import json
import os
import re
import subprocess
from pathlib import Path

from deploy_lab import DEPLOY, instructions, need_tool, read_compose


def run(*command: str, folder: Path = DEPLOY, **shell: str) -> "subprocess.CompletedProcess[str]":
    """The tool with these variables, without anything of the caller's settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **shell}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def compose_config(*overrides: str, **shell: str) -> "subprocess.CompletedProcess[str]":
    """Compose's own reading of the files, with these variables set; it needs no engine."""
    tool = need_tool("docker-compose")
    files = [part for name in ("compose.yaml", *overrides) for part in ("-f", name)]
    return run(tool, *files, "config", "--format", "json", **shell)


def server_of(said: "subprocess.CompletedProcess[str]") -> dict:
    """The server as Compose has read it, without a warning."""
    assert (said.returncode, said.stderr) == (0, "")
    return json.loads(said.stdout)["services"]["server"]


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
    said = compose_config(
        EVOSERVE_DRAIN_S="90", STOP_GRACE="100s", RECIPES_MODE="ro", SECRETS="/elsewhere"
    )
    server = server_of(said)
    assert server["environment"]["EVOSERVE_DRAIN_S"] == "90"
    assert server["environment"]["EVOSERVE_THREADS"] is None
    assert server["stop_grace_period"] == "1m40s"
    assert server["volumes"][1]["read_only"] is True
    assert json.loads(said.stdout)["secrets"]["api_keys"]["file"] == "/elsewhere/api_keys"


def test_a_build_takes_its_arguments_from_the_shell_or_leaves_them_to_the_dockerfile() -> None:
    declared = {value.partition("=")[0] for name, value in instructions() if name == "ARG"}
    given = {name: f"a {name}" for name in declared}
    assert server_of(compose_config(**given))["build"]["args"] == given
    (torch,) = [value for name, value in instructions() if value.startswith("TORCH_INDEX=")]
    plain = server_of(compose_config())["build"]["args"]
    assert plain == {"TORCH_INDEX": torch.partition("=")[2]}


def test_the_override_for_a_gpu_takes_torch_for_cuda_and_reserves_one() -> None:
    plain, cuda = server_of(compose_config()), server_of(compose_config("compose.cuda.yaml"))
    assert re.search(r"/cu\d+$", cuda["build"]["args"]["TORCH_INDEX"])
    assert cuda["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]
    assert cuda["environment"] == {**plain["environment"], "EVOSERVE_DEVICE": "cuda"}
    assert cuda["image"] != plain["image"]  # a build of one does not take the other's name
    changed = {"build", "deploy", "environment", "image"}
    assert {name: value for name, value in cuda.items() if name not in changed} == {
        name: value for name, value in plain.items() if name not in changed
    }
    chosen = {"TORCH_INDEX": "elsewhere", "REVISION": "abc", "EVOSERVE_DEVICE": "cuda:0"}
    server = server_of(compose_config("compose.cuda.yaml", **chosen))
    assert server["build"]["args"] == {"TORCH_INDEX": "elsewhere", "REVISION": "abc"}
    assert server["environment"]["EVOSERVE_DEVICE"] == "cuda:0"


def test_promtool_takes_the_configuration_and_its_rules() -> None:
    tool = need_tool("promtool")
    said = run(tool, "check", "config", "--lint=all", "--lint-fatal", "prometheus.yml")
    assert said.returncode == 0, said.stderr
    said = run(tool, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml")
    assert said.returncode == 0, said.stderr
    assert "9 rules found" in said.stdout
