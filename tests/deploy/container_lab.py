"""Runs the image's command as its container would: user, environment, mounts, read-only root.

Linux namespaces take the engine's place. The root is the host's /usr, /etc and the like instead of
the base image's, and /opt/evoserve is this environment, or the one that IMAGE_VENV names.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deploy_lab import ROOT, health_command, image_environment, only, read_compose

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/proc", "/dev")
BASE_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
PROBE_S, HEALTHY_S = 1, 300
VENV = Path(os.environ.get("IMAGE_VENV", sys.prefix))
CLIENT = """
import json, sys, urllib.request
method, url, key, body = sys.argv[1:]
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + key}
request = urllib.request.Request(url, body.encode() or None, headers, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
for line in answer:
    print(line.decode(), end="", flush=True)
"""


def need_namespaces() -> None:
    """Skips the test where a container's namespaces cannot be made."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "setpriv", "ip"))):
        pytest.skip("a container's namespaces need root, util-linux and iproute2")
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], check=False)
    if tried.returncode != 0:
        pytest.skip("this machine does not let root make namespaces")


@dataclass(frozen=True)
class Container:
    """A running command: its process, user and environment, and the file with its output."""

    process: "subprocess.Popen[bytes]"
    user: str
    environment: dict[str, str]
    log: Path

    @property
    def root(self) -> Path:
        """Its root, as seen from here."""
        return Path(f"/proc/{self.process.pid}/root")

    def run(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        """A further command inside, as `docker exec` runs it."""
        return subprocess.run(
            [*self._enter(), *_as_user(self.user), *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def is_healthy(self) -> bool:
        """Does the image's HEALTHCHECK succeed?"""
        return self.run(health_command()).returncode == 0

    def wait_healthy(self) -> None:
        """Until it is; raises AssertionError with the log if the server ends, or takes too long."""
        end = time.monotonic() + HEALTHY_S
        while not self.is_healthy():
            is_hopeful = self.process.poll() is None and time.monotonic() < end
            assert is_hopeful, self.log.read_text()
            time.sleep(PROBE_S)

    def open(
        self, method: str, path: str, key: str = "", body: object = None
    ) -> "subprocess.Popen[str]":
        """A request from inside; the first line of its output is the status, then the body."""
        url = f"http://127.0.0.1:{self.environment['EVOSERVE_PORT']}{path}"
        text = "" if body is None else json.dumps(body)
        command = [sys.executable, "-I", "-S", "-c", CLIENT, method, url, key, text]
        enter = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net"]
        return subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, text=True)

    def ask(self, method: str, path: str, key: str = "", body: object = None) -> tuple[int, Any]:
        """(status, JSON) of a request."""
        output, _ = self.open(method, path, key, body).communicate(timeout=60)
        status, text = output.split("\n", 1)
        return int(status), json.loads(text)

    def _enter(self) -> list[str]:
        return ["nsenter", f"--target={self.process.pid}", "--mount", "--net", "--root", "--wd"]


@contextmanager
def running(
    folder: Path,
    command: Sequence[str],
    user: str,
    mounts: Sequence[tuple[Path, str, str]],
    environment: dict[str, str],
) -> Iterator[Container]:
    """The command in its container, killed at the end if it still runs.

    folder: empty; user: UID:GID; mounts: (source, target, ro or rw) beside the system's;
    environment: PATH excepted, which is the image's.
    """
    (folder / "root").mkdir()
    given = {**environment, "PATH": image_environment()["PATH"].replace("$PATH", BASE_PATH)}
    system = [(Path(each), each, "ro") for each in SYSTEM if Path(each).exists()]
    own = [(Path(each), each, "ro") for each in sorted({sys.base_prefix, str(ROOT), str(VENV)})]
    all_mounts = [*system, *own, (VENV, "/opt/evoserve", "ro"), *mounts]
    (tmpfs,) = read_compose()["services"]["server"]["tmpfs"]
    start = ["unshare", "--mount", "--net", "--propagation=private", "sh"]
    start += [str(Path(__file__).with_name("container.sh")), str(folder / "root"), *user.split(":")]
    start += [tmpfs.removeprefix("/tmp:"), only("WORKDIR")]
    start += [str(part) for mount in all_mounts for part in mount]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*start, "--", *command], env=given, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Container(process, user, given, log)
    finally:
        process.kill()
        process.wait()


def _as_user(user: str) -> list[str]:
    uid, gid = user.split(":")
    return ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
