"""A real Prometheus on loopback with deploy/'s scrape job and rules, scraping every second."""

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from deploy_lab import DEPLOY, need_tool, read_yaml

SCRAPE_S = 1


@dataclass(frozen=True)
class Prometheus:
    """Its address."""

    url: str

    def get(self, path: str, **query: str) -> Any:
        """`data` of an answer of its HTTP API. Raises HTTPError for a query that it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> dict[str, float]:
        """Values by labels, now."""
        found = self.get("query", query=expression)["result"]
        return {json.dumps(each["metric"]): float(each["value"][1]) for each in found}

    def wait(self, is_so: Callable[[], bool], what: str) -> None:
        """Until it is so; raises AssertionError after five minutes."""
        end = time.monotonic() + 300
        while not is_so():
            assert time.monotonic() < end, f"Prometheus never saw {what}"
            time.sleep(SCRAPE_S / 5)

    def total(self, metric: str) -> float:
        """The sum of a metric over its series."""
        return sum(self.query(f"sum({metric})").values())


@contextmanager
def observing(port: int, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with our files, its one target being the server at `port` of loopback."""
    program = need_tool("prometheus")
    config = read_yaml("prometheus.yml")
    config["global"] = dict.fromkeys(config["global"], f"{SCRAPE_S}s")
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(DEPLOY / "alerts.yml", folder)
    address = f"127.0.0.1:{_free_port()}"
    command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        found = Prometheus(f"http://{address}")
        found.wait(lambda: _is_up(found, process, folder), "its target")
        yield found
    finally:
        process.terminate()
        process.wait(30)


def _is_up(prometheus: Prometheus, process: "subprocess.Popen[bytes]", folder: Path) -> bool:
    assert process.poll() is None, (folder / "log").read_text()
    try:
        return prometheus.query("up") and prometheus.total("up") == 1
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
