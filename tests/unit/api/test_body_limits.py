"""Bodies that cost more to check than to send, or are encoded, are refused unchecked."""

import json
from collections.abc import AsyncIterator

import pytest
from fastapi.testclient import TestClient

from evoserve.api.app import create_app
from evoserve.api.body import MAX_ERRORS, MAX_PARTS
from evoserve.config import Settings
from evoserve.engine.protocol import FinishReason, GenerationRequest, TokenEvent

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


async def say_ok(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(ord("o"), FinishReason.LENGTH)


@pytest.fixture
def client(make_service) -> TestClient:
    service = make_service(say_ok)
    return TestClient(create_app(Settings(), service.engine, service.registry))


@pytest.mark.parametrize("part", ["{}", "[]", "1"])
def test_a_body_of_very_many_parts_is_refused_by_their_number(client, part: str) -> None:
    items = ",".join([part] * (MAX_PARTS + 10))
    answer = client.post(CHAT, content=f'{{"messages": [{items}]}}', headers=JSON)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert str(MAX_PARTS) in error["message"]


def test_very_many_errors_are_counted_and_not_listed(client) -> None:
    fields = {f"k{number}": number for number in range(MAX_ERRORS + 10)}
    answer = client.post(CHAT, content=json.dumps(fields), headers=JSON)
    assert answer.status_code == 400
    assert f"{MAX_ERRORS + 12} errors" in answer.json()["error"]["message"]


def test_a_few_errors_are_named(client) -> None:
    answer = client.post(CHAT, content='{"model": "x", "messages": [{}]}', headers=JSON)
    assert answer.json()["error"]["param"] == "messages[0].role"


def test_long_prompts_of_text_and_of_tokens_are_not_refused_here(client) -> None:
    for prompt in ("so, and so; " * 8000, list(range(200)) * 300):
        body = {"model": "toy", "prompt": prompt, "max_tokens": 1}
        answer = client.post("/v1/completions", json=body)
        assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", ""])
def test_an_encoded_body_is_refused_by_its_encoding(client, encoding: str) -> None:
    answer = client.post(CHAT, content=b"{}", headers={**JSON, "Content-Encoding": encoding})
    assert answer.status_code == 415
    assert f"Content-Encoding '{encoding}'" in answer.json()["error"]["message"]
    assert answer.headers["accept-encoding"] == "identity"


def test_a_body_that_says_it_is_as_it_is_is_read(client) -> None:
    answer = client.post(CHAT, content=b"{}", headers={**JSON, "Content-Encoding": "Identity"})
    assert answer.status_code == 400
