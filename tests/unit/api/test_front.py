"""Around every route: ids, limits, log lines, metrics, draining, other origins' pages."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from evoserve.api.app import create_app
from evoserve.api.drain import Drain
from evoserve.api.logs import JsonFormatter, TextFormatter
from evoserve.config import Settings
from evoserve.engine.protocol import FinishReason, GenerationRequest, TokenEvent
from evoserve.errors import ConfigError

CHAT = "/v1/chat/completions"
BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
NUM_PROMPT = len("<|user|>hi") + 1 + len("<|assistant|>")
PROBES = ("/live", "/ready", "/health", "/metrics")


async def say_ok(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(ord("o"))
    yield TokenEvent(ord("k"), FinishReason.LENGTH)


@pytest.fixture
def make_app(make_service) -> Callable[..., tuple[TestClient, Drain]]:
    def make(plan=say_ok, **settings: object) -> tuple[TestClient, Drain]:
        service, drain = make_service(plan), Drain()
        app = create_app(Settings(**settings), service.engine, service.registry, drain=drain)
        return TestClient(app, raise_server_exceptions=False), drain

    return make


@pytest.fixture
def logged(caplog) -> Callable[[], list[dict[str, object]]]:
    caplog.set_level(logging.DEBUG, "evoserve.access")
    return lambda: [each.fields for each in caplog.records if each.name == "evoserve.access"]


def test_every_answer_has_the_request_id(make_app) -> None:
    client, _ = make_app()
    for path in ("/health", "/nowhere", CHAT):
        assert (
            client.get(path, headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
        )
        assert client.get(path).headers["x-request-id"].startswith("req-")
    sent = {"x-request-id": "with space"}
    assert client.get("/health", headers=sent).headers["x-request-id"].startswith("req-")


def test_one_line_for_each_request(make_app, logged) -> None:
    client, _ = make_app(api_key="secret-key")
    headers = {"Authorization": "Bearer secret-key", "x-request-id": "r1"}
    client.post(CHAT, json={**BODY, "stream": True}, headers=headers)
    client.get("/secret/path")
    client.post(CHAT, json=BODY)
    chat, unknown, refused = logged()
    assert chat.pop("duration_ms") >= 0
    assert chat == {
        "request_id": "r1",
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "key": "default",
        "recipe": "toy@0123456789ab",
        "prompt_tokens": NUM_PROMPT,
        "completion_tokens": 2,
    }
    assert (unknown["route"], unknown["status"]) == ("unmatched", 404)
    assert (refused["status"], refused["key"]) == (401, "anonymous")
    text = json.dumps([chat, unknown, refused])
    assert "secret" not in text
    assert "hi" not in text.replace("this", "")


def test_lines_are_json_or_text() -> None:
    record = logging.LogRecord("evoserve.access", logging.INFO, "f", 1, "request", (), None)
    record.fields = {"status": 200, "request_id": "r1"}
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["message"], line["status"]) == ("info", "request", 200)
    assert line["time"].endswith("Z")
    assert TextFormatter().format(record).endswith("request status=200 request_id=r1")
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        failed = logging.makeLogRecord({"msg": "x", "exc_info": (ValueError, error, None)})
    assert "\n" not in JsonFormatter().format(failed)
    assert json.loads(JsonFormatter().format(failed))["error"] == "ValueError: a\nb"


def test_a_draining_server_refuses_work_and_answers_probes(make_app) -> None:
    client, drain = make_app()
    drain.begin()
    for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/nowhere")):
        answer = client.request(method, path, json=BODY)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert answer.json()["error"]["code"] == "overloaded"
    assert [client.get(path).status_code for path in PROBES] == [200, 503, 200, 200]
    assert drain.num_open == 0


def test_draining_waits_for_what_is_open() -> None:
    async def scenario() -> None:
        drain = Drain()
        assert await drain.wait_idle(0)
        drain.enter()
        assert not await drain.wait_idle(0)
        waiting = asyncio.create_task(drain.wait_idle(60))
        drain.enter()
        drain.leave()
        drain.leave()
        assert await waiting

    asyncio.run(scenario())


@pytest.mark.parametrize(("stalled_s", "status"), [(0, 200), (119, 200), (121, 503)])
def test_live_asks_for_the_engines_heartbeat(make_service, stalled_s: float, status: int) -> None:
    service = make_service(say_ok)
    stats = replace(service.engine.stats(), stalled_s=stalled_s)
    service.engine.stats = lambda: stats
    client = TestClient(create_app(Settings(), service.engine, service.registry))
    assert client.get("/live").status_code == status


def test_rate_limits_are_429_with_headers(make_app) -> None:
    client, _ = make_app(requests_per_minute=2, tokens_per_minute=1000)
    answer = client.post(CHAT, json=BODY)
    assert answer.headers["x-ratelimit-limit-requests"] == "2"
    assert answer.headers["x-ratelimit-remaining-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(1000 - NUM_PROMPT)
    client.post(CHAT, json=BODY)
    answer = client.post(CHAT, json=BODY)
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 30
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert client.get("/v1/models").status_code == 200
    assert 'evoserve:rate_limited_total{kind="requests"} 1.0' in client.get("/metrics").text


def test_tokens_are_limited_by_what_was_used(make_app) -> None:
    client, _ = make_app(tokens_per_minute=NUM_PROMPT + 1)
    assert client.post(CHAT, json=BODY).status_code == 200
    answer = client.post(CHAT, json={**BODY, "stream": True})
    assert (answer.status_code, answer.json()["error"]["type"]) == (429, "tokens")


@pytest.mark.parametrize(
    ("settings", "body", "param"),
    [({"max_n": 2}, {"n": 3}, "n"), ({"max_prompt_tokens": NUM_PROMPT - 1}, {}, "messages")],
)
def test_size_limits_are_named(make_app, settings, body, param: str) -> None:
    answer = make_app(**settings)[0].post(CHAT, json={**BODY, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_metrics_may_be_guarded(make_app, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("scraper:s1\n")
    client, _ = make_app(api_key_file=file, guard_metrics=True)
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer s1"}).status_code == 200
    assert client.get("/live").status_code == 200


def test_pages_of_other_origins_are_not_let_in_unless_allowed(make_app) -> None:
    page = {"Origin": "https://page.example"}
    asked = {**page, "Access-Control-Request-Method": "POST"}
    client, _ = make_app()
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=page).headers
    assert client.options(CHAT, headers=asked).status_code == 405
    client, _ = make_app(cors_origins=("https://page.example",))
    allowed = "access-control-allow-origin"
    assert client.get("/v1/models", headers=page).headers[allowed] == "https://page.example"
    assert client.options(CHAT, headers=asked).headers[allowed] == "https://page.example"
    other = {"Origin": "https://evil.example"}
    assert allowed not in client.get("/v1/models", headers=other).headers


def test_requests_are_counted_by_route(make_app) -> None:
    client, _ = make_app()
    for path in ("/v1/models/a", "/v1/models/b", "/x/1", "/x/2"):
        client.get(path)
    text = client.get("/metrics").text
    name = "evoserve:http_requests_total"
    assert name + '{method="GET",route="/v1/models/{name:path}",status="404"} 2.0' in text
    assert name + '{method="GET",route="unmatched",status="404"} 2.0' in text


def test_series_of_a_deleted_recipe_are_dropped(make_app, served) -> None:
    client, _ = make_app()
    client.post(CHAT, json=BODY)
    service = client.app.state.service
    name = 'vllm:generation_tokens_total{model_name="toy@0123456789ab"}'
    assert name in client.get("/metrics").text
    service.registry.remove(served.model_id)
    assert name in client.get("/metrics").text  # the engine still has it
    stats = replace(service.engine.stats(), models=())
    service.engine.stats = lambda: stats
    assert "toy@0123456789ab" not in client.get("/metrics").text


def test_a_wrong_key_file_is_a_config_error(make_app, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        make_app(api_key_file=tmp_path / "none")


def test_a_client_that_leaves_in_its_body_is_not_an_error(make_service, logged) -> None:
    service = make_service(say_ok)
    app = create_app(Settings(), service.engine, service.registry)
    scope = {
        "type": "http",
        "method": "POST",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    sent: list[object] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent == []
    assert [line["status"] for line in logged()] == [499]
