"""Servers for all attacks; when they are over, each must be as it was before them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.attack_lab import Target, spawn_server

MAX_GROWTH_BYTES = 96 * 2**20


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Short timeouts, a small pool of blocks, few places to run in."""
    limits = {
        "admin_key": "admin-secret",
        "receive_timeout_s": 2,
        "send_timeout_s": 2,
        "max_num_seqs": 16,
        "max_body_bytes": 65536,
        "kv_cache_bytes": 2**21,
        "load_timeout_s": 5,
    }
    with _attacked(tmp_path_factory.mktemp("attacked"), **limits) as found:
        yield found


@pytest.fixture(scope="session")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Without any key: on loopback, whoever is on this machine may change what is served."""
    with _attacked(tmp_path_factory.mktemp("keyless")) as found:
        yield found


@contextmanager
def _attacked(folder: Path, **settings: object) -> Iterator[Target]:
    with spawn_server(folder, log_format="json", **settings) as found:
        found.check_alive()
        before = found.rss_bytes()
        yield found
        found.check_alive()
        found.wait_whole()
        grown = found.rss_bytes() - before
        assert grown < MAX_GROWTH_BYTES, f"{grown} bytes more than before the attacks"
        statuses = found.answers_by_status()
        assert {s for s in statuses if s.startswith("5")} <= {"503"}, statuses
        log = (folder / "log").read_text()
        assert "Traceback" not in log, log[-4000:]
