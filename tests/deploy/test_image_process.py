"""The image's entry point, health check and shutdown, as its container would run them."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from container_lab import Container, need_namespaces, running
from deploy_lab import (
    ROOT,
    image_command,
    image_environment,
    last_stage,
    only,
    read_compose,
    seconds,
)

from evoserve.config import Settings

SERVER = read_compose()["services"]["server"]
ANYBODY = "12345:0"  # a number without a name, in the group that OpenShift gives
API_KEY, ADMIN_KEY = "a-client-s-key", "the-admin-s-key"
CHAT = {"model": "mini-dfs", "messages": [{"role": "user", "content": "1 + 1 ="}], "max_tokens": 4}
LONG = {"model": "mini-dfs", "prompt": "1", "max_tokens": 400, "n": 4, "ignore_eos": True}
ONE_THREAD = {"EVOSERVE_THREADS": "1", "OMP_NUM_THREADS": "1"}  # tests run beside others


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a host mounts: recipes, secrets, and a volume with the mode that the image gives it."""
    need_namespaces()
    made = tmp_path_factory.mktemp("host")
    uid = int(ANYBODY.partition(":")[0])
    (made / "recipes").mkdir()
    shutil.copy(ROOT / "models/recipes/mini-dfs.json", made / "recipes")
    (made / "settings").write_text(f'admin_key = "{ADMIN_KEY}"\nmax_n = 7\n')
    (made / "api_keys").write_text(f"# clients\nteam:{API_KEY}\n")
    for name in ("recipes", "settings", "api_keys"):
        shutil.chown(made / name, uid)
    for name in ("settings", "api_keys"):
        (made / name).chmod(0o400)
    (made / "state").mkdir()
    (install,) = [value.split() for name, value in last_stage() if name == "RUN"]
    assert install[:3] == ["install", "-d", "-m"]
    assert install[4:] == ["/srv/state"]
    (made / "state").chmod(int(install[3], 8))
    return made


def mounts(folder: Path) -> list[tuple[Path, str, str]]:
    """Compose's volumes and secrets, each from where the test has it."""
    sources = {"/srv/models": ROOT / "models"}
    found = []
    for volume in SERVER["volumes"]:
        _, target, *mode = volume.split(":")
        source = sources.get(target, folder / Path(target).name)
        found.append((source, target, mode[0] if mode else "rw"))
    return found + [(folder / name, f"/run/secrets/{name}", "ro") for name in SERVER["secrets"]]


@pytest.fixture(scope="module")
def container(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """Compose's server, started by a user without a name and asked until it is healthy."""
    set_there = {name: value for name, value in SERVER["environment"].items() if value is not None}
    environment = {**image_environment(), **set_there, **ONE_THREAD}
    command = [json.loads(only("ENTRYPOINT"))[0], *SERVER["command"]]
    run = tmp_path_factory.mktemp("run")
    with running(run, command, ANYBODY, mounts(folder), environment) as found:
        found.wait_healthy()
        yield found


def test_it_runs_as_the_user_it_was_given_without_a_capability(container: Container) -> None:
    status = Path(f"/proc/{container.process.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert fields["Uid"].split() == ["12345"] * 4
    assert fields["Groups"].split() == []
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


def test_it_answers_who_has_a_key_of_the_secret_file(container: Container) -> None:
    status, answer = container.ask("POST", "/v1/chat/completions", API_KEY, CHAT)
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"]
    assert container.ask("POST", "/v1/chat/completions", "wrong", CHAT)[0] == 401


def test_the_settings_file_brings_the_admin_key_and_other_settings(container: Container) -> None:
    status, listed = container.ask("GET", "/v1/recipes", ADMIN_KEY)
    assert (status, len(listed["data"])) == (200, 1)
    assert container.ask("GET", "/v1/recipes", API_KEY)[0] == 401
    status, answer = container.ask("POST", "/v1/completions", API_KEY, {**LONG, "n": 8})
    assert status == 400
    assert "7" in answer["error"]["message"]


def test_only_the_mounts_that_are_meant_to_be_written_can_be(container: Container) -> None:
    for path in ("/", "/srv", "/srv/models", "/usr", "/opt/evoserve", "/run/secrets", "/etc"):
        assert container.run(["touch", f"{path}/x"]).returncode != 0, path
    for path in ("/tmp", "/srv/recipes", "/srv/state"):
        assert container.run(["touch", f"{path}/x"]).returncode == 0, path
        assert container.run(["rm", f"{path}/x"]).returncode == 0, path


def test_compiled_kernels_lie_in_the_tmpfs_and_fill_little_of_it(container: Container) -> None:
    cache = container.root / image_environment()["NUMBA_CACHE_DIR"].lstrip("/")
    assert list(cache.rglob("*.nbc"))
    tmpfs = os.statvfs(container.root / "tmp")
    assert (tmpfs.f_blocks - tmpfs.f_bfree) * tmpfs.f_frsize < 64 * 2**20  # of 512


def test_state_is_kept_in_the_volume(container: Container, folder: Path) -> None:
    file = SERVER["environment"]["EVOSERVE_STATE"]
    assert (folder / "state" / Path(file).name).stat().st_uid == 12345


def test_the_log_tells_no_key(container: Container) -> None:
    said = container.log.read_text()
    assert "team" in said
    assert API_KEY not in said
    assert ADMIN_KEY not in said


def test_sigterm_lets_a_stream_end_and_exits_within_the_grace_period(container: Container) -> None:
    stream = container.open("POST", "/v1/completions", API_KEY, {**LONG, "stream": True})
    assert stream.stdout.readline() == "200\n"
    assert stream.stdout.readline().startswith("data: ")
    container.process.send_signal(signal.SIGTERM)
    grace_s = seconds(SERVER["stop_grace_period"])
    assert grace_s > Settings().drain_s
    assert container.process.wait(grace_s) == 0
    assert stream.communicate()[0].rstrip().endswith("data: [DONE]")
    assert not container.is_healthy()


def test_the_plain_image_runs_as_its_own_user_without_a_home(folder: Path, tmp_path: Path) -> None:
    eager = {"EVOSERVE_ENFORCE_EAGER": "true"}  # the other container has shown the kernels
    environment = {**image_environment(), **ONE_THREAD, **eager, "HOME": "/nowhere"}
    plain = [
        (ROOT / "models", "/srv/models", "ro"),
        (folder / "recipes", "/srv/recipes", "ro"),
    ]
    with running(tmp_path, image_command(), only("USER"), plain, environment) as found:
        found.wait_healthy()
        assert found.ask("POST", "/v1/chat/completions", body=CHAT)[0] == 200
        found.process.send_signal(signal.SIGTERM)
        assert found.process.wait(seconds(SERVER["stop_grace_period"])) == 0
