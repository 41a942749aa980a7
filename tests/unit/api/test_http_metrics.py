"""What /metrics says of a server before anything has gone wrong: errors at 0, readiness, memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from evoserve.api.app import create_app
from evoserve.api.drain import Drain
from evoserve.api.logs import PROBES
from evoserve.config import Settings

ANSWERS = "evoserve:http_requests_total"


@pytest.fixture
def drain() -> Drain:
    return Drain()


@pytest.fixture
def client(make_service, drain: Drain) -> TestClient:
    """Of a server whose engine is never asked for a token."""
    service = make_service(lambda request: pytest.fail("nothing is to be generated"))
    app = create_app(Settings(), service.engine, service.registry, drain=drain)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def samples(client: TestClient) -> Callable[[], dict[str, float]]:
    """Every sample of a scrape by name and labels."""

    def scrape() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    return scrape


def failures(route: str, method: str) -> list[str]:
    return [f'{ANSWERS}{{method="{method}",route="{route}",status="{s}"}}' for s in ("500", "503")]


def test_failures_of_every_route_but_the_probes_begin_at_zero(client, samples) -> None:
    routes = [route for route in client.app.routes if isinstance(route, APIRoute)]
    work = {(r.path, method) for r in routes for method in r.methods if r.path not in PROBES}
    assert {
        ("/v1/chat/completions", "POST"),
        ("/v1/models/{name:path}", "GET"),
        ("/v1/aliases/{name:path}", "PUT"),
        ("/v1/recipes/{name}", "DELETE"),
    } <= work
    found = {name: value for name, value in samples().items() if name.startswith(ANSWERS)}
    assert found == dict.fromkeys((each for pair in work for each in failures(*pair)), 0)


def test_a_first_failure_is_counted_where_it_began_at_zero(client, samples) -> None:
    name, _ = failures("/v1/models", "GET")
    before = samples()[name]
    client.app.state.service.lifecycle.names = lambda: {}[0]
    assert client.get("/v1/models").status_code == 500
    del client.app.state.service.lifecycle.names
    assert (before, samples()[name]) == (0, 1)


def test_ready_is_what_the_probe_says(client, samples, drain) -> None:
    def seen() -> tuple[int, float]:
        return client.get("/ready").status_code, samples()["evoserve:ready"]

    service = client.app.state.service
    assert seen() == (200, 1)
    with service.lifecycle.starting():
        assert seen() == (503, 0)
    assert seen() == (200, 1)
    stats = service.engine.stats()
    service.engine.stats = lambda: replace(stats, stalled_s=1000)
    assert seen() == (503, 0)
    service.engine.stats = lambda: stats
    drain.begin()
    assert seen() == (503, 0)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="read from Linux's /proc")
def test_the_process_tells_its_memory(samples) -> None:
    found = samples()
    assert found["process_resident_memory_bytes"] > 2**20
    assert found["process_virtual_memory_bytes"] > found["process_resident_memory_bytes"]
