"""The application over a scripted engine: statuses and bodies of what goes wrong, and metrics."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evoserve.api.app import create_app
from evoserve.api.chat import CHAT
from evoserve.api.drain import Drain
from evoserve.api.generate import Generation
from evoserve.api.registry import Registry
from evoserve.api.schemas import ChatBody, CompletionBody
from evoserve.api.server import serve
from evoserve.api.stream import KEEP_ALIVE, stream_events
from evoserve.config import Settings
from evoserve.engine.protocol import FinishReason, GenerationRequest, TokenEvent
from evoserve.errors import ConfigError, RequestError, UnknownModel

CHAT_BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


async def say_ok(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(ord("o"), num_cached_tokens=2)
    yield TokenEvent(ord("k"), FinishReason.LENGTH)


async def fail(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(ord("o"))
    yield TokenEvent(None, FinishReason.ERROR, error="secret at /inner/path")


@pytest.fixture
def make_client(make_service):
    def make(plan, capacity=64, is_draining=False, **settings):
        service = make_service(plan, capacity)
        drain = Drain()
        app = create_app(Settings(**settings), service.engine, service.registry, drain=drain)
        if is_draining:
            drain.begin()
        return TestClient(app, raise_server_exceptions=False)

    return make


def test_a_full_queue_is_503_with_retry_after(make_client) -> None:
    answer = make_client(say_ok, capacity=0).post("/v1/chat/completions", json=CHAT_BODY)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error"]["code"] == "overloaded"


def test_an_engine_error_is_500_without_internals(make_client) -> None:
    answer = make_client(fail).post("/v1/chat/completions", json=CHAT_BODY)
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


def test_a_bug_is_500_without_internals(make_client) -> None:
    def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        raise ZeroDivisionError("secret")

    answer = make_client(plan).post("/v1/chat/completions", json=CHAT_BODY)
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text


def test_what_the_request_is_to_blame_for_is_its_error(make_client) -> None:
    async def outgrow(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        yield TokenEvent(ord("o"))
        reason = "Invalid 'response_format': too large."
        yield TokenEvent(None, FinishReason.ERROR, error=reason, culprit="response_format")

    answer = make_client(outgrow).post("/v1/chat/completions", json=CHAT_BODY)
    assert answer.status_code == 400
    told = answer.json()["error"]
    assert (told["param"], told["type"]) == ("response_format", "invalid_request_error")
    answer = make_client(outgrow).post("/v1/chat/completions", json={**CHAT_BODY, "stream": True})
    assert json.loads(answer.text.strip().split("\n\n")[-1][6:])["error"] == told


def test_an_error_in_a_stream_is_its_last_event(make_client) -> None:
    answer = make_client(fail).post("/v1/chat/completions", json={**CHAT_BODY, "stream": True})
    events = answer.text.strip().split("\n\n")
    assert json.loads(events[1][6:])["choices"][0]["delta"] == {"content": "o"}
    assert json.loads(events[-1][6:])["error"]["code"] == "internal_error"
    assert "secret" not in answer.text


def test_ready_tells_draining(make_client) -> None:
    assert make_client(say_ok).get("/ready").status_code == 200
    answer = make_client(say_ok, is_draining=True).get("/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "draining"})
    assert make_client(say_ok, is_draining=True).get("/health").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/recipes", "GET, POST"),
        ("PATCH", "/v1/recipes/x", "DELETE, GET"),
        ("PATCH", "/v1/aliases/x", "DELETE, GET, PUT"),
        ("GET", "/v1/completions", "POST"),
        ("POST", "/live", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_all_that_there_are(make_client, method, path, allowed) -> None:
    answer = make_client(say_ok).request(method, path)
    assert answer.status_code == 405
    assert answer.headers.get_list("allow") == [allowed]
    assert answer.json()["error"]["message"].endswith(f"{method} {path}")


def test_uptime_checkers_may_ask_for_the_head_alone(make_client) -> None:
    client = make_client(say_ok, api_key="key")
    for path in ("/live", "/ready", "/health", "/"):
        assert client.head(path).status_code == client.get(path).status_code == 200
    assert make_client(say_ok, is_draining=True).head("/ready").status_code == 503


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer wrong", 401),
        ("Basic k\u00e9y", 401),
        ("Bearer k\u00e9y", 200),
        ("bearer k\u00e9y", 200),
    ],
)
def test_keys_guard_the_models(make_client, header: str | None, status: int) -> None:
    client = make_client(say_ok, api_key="k\u00e9y")
    headers = {} if header is None else {"Authorization": header.encode()}
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert client.get("/health").status_code == 200


def test_metrics_are_counted_under_vllms_names(make_client) -> None:
    client = make_client(say_ok)
    client.post("/v1/chat/completions", json={**CHAT_BODY, "n": 2, "max_tokens": 9})
    lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    label = 'model_name="toy@0123456789ab"'
    num_prompt = len("<|user|>hi") + 1 + len("<|assistant|>")
    assert float(values[f"vllm:prompt_tokens_total{{{label}}}"]) == 2 * num_prompt
    assert float(values[f"vllm:generation_tokens_total{{{label}}}"]) == 4
    assert float(values[f"vllm:prefix_cache_hits_total{{{label}}}"]) == 4
    assert float(values[f'vllm:request_success_total{{finished_reason="length",{label}}}']) == 2
    for name in ("time_to_first_token", "inter_token_latency", "e2e_request_latency"):
        assert float(values[f"vllm:{name}_seconds_count{{{label}}}"]) == 2
    sizes = {
        "request_prompt_tokens": (2, 2 * num_prompt),
        "request_generation_tokens": (2, 4),
        "request_max_num_generation_tokens": (1, 2),
        "request_params_n": (1, 2),
        "request_params_max_tokens": (2, 18),
    }
    for name, (count, total) in sizes.items():
        assert float(values[f"vllm:{name}_count{{{label}}}"]) == count
        assert float(values[f"vllm:{name}_sum{{{label}}}"]) == total
    phases = ("prefill_time", "decode_time", "inference_time", "time_per_output_token")
    spent = {name: float(values[f"vllm:request_{name}_seconds_sum{{{label}}}"]) for name in phases}
    assert spent["inference_time"] == pytest.approx(spent["prefill_time"] + spent["decode_time"])
    assert spent["time_per_output_token"] == pytest.approx(spent["decode_time"])  # of one gap each
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert float(values[f"vllm:{name}{{{label}}}"]) == 0
    assert float(values[f"vllm:num_preemptions_total{{{label}}}"]) == 2
    assert "evoserve:num_preemptions_total" not in values


def test_silence_is_filled_with_comments(make_service, make_call) -> None:
    async def plan(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        await asyncio.Event().wait()
        yield TokenEvent(1)

    async def scenario() -> None:
        call = make_call()
        generation = Generation(make_service(plan), call)
        events = stream_events(generation, call, CHAT, has_usage=False, keep_alive_s=0.001)
        assert [await anext(events), await anext(events)] == [KEEP_ALIVE, KEEP_ALIVE]
        generation.close()

    asyncio.run(scenario())


def test_names_lead_to_the_newest_recipe(served) -> None:
    registry = Registry()
    with pytest.raises(RequestError):
        registry.resolve(None)
    registry.add(served, ["alias"])
    assert registry.resolve(None) is served
    newer = type(served)(**{**vars(served), "model_id": "toy@ffffffffffff"})
    registry.add(newer)
    assert registry.resolve("toy") is newer
    assert registry.resolve("alias") is served
    assert registry.resolve(served.model_id) is served
    assert list(registry.names()) == [served.model_id, newer.model_id, "toy", "alias"]
    registry.remove(newer.model_id)
    for name in ("toy", newer.model_id, ""):
        with pytest.raises(UnknownModel):
            registry.resolve(name)
    with pytest.raises(UnknownModel):
        registry.remove(newer.model_id)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_NAMES = sorted({*ChatBody.model_fields, *CompletionBody.model_fields} - {"model"})


@hypothesis_settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"]),
    st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=6), _JSON, max_size=3),
)
@example("/detokenize", {"tokens": [2**31 - 1, 300]})
@example("/v1/completions", {"prompt": [2**31 - 1], "echo": True})
def test_no_body_is_an_internal_error(make_client, path: str, fields: dict[str, object]) -> None:
    given_by_path = {"/v1/chat/completions": CHAT_BODY, "/v1/completions": {"prompt": "a"}}
    body = {"model": "toy", **given_by_path.get(path, {}), **fields}
    raw = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    answer = make_client(say_ok).post(path, content=raw, headers=headers)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_an_address_in_use_is_a_config_error(make_service) -> None:
    service = make_service(say_ok)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = Settings(port=taken.getsockname()[1])
        with pytest.raises(ConfigError, match=str(used.port)):
            asyncio.run(serve(used, service.engine, service.registry))
