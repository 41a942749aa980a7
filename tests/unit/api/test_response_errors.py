"""Refusals of /v1/responses name its own fields, wherever they come from."""

import json

import pytest
from fastapi.testclient import TestClient

from evoserve.api.app import create_app
from evoserve.api.response_errors import reworded
from evoserve.config import Settings
from evoserve.engine.protocol import FinishReason, TokenEvent
from evoserve.errors import CapacityError, ContextLengthError, RequestError

ASKED = {"model": "toy", "input": "hi"}


async def blame_the_schema(request):
    yield TokenEvent(97)
    text = "Invalid 'response_format': it cannot be used"
    yield TokenEvent(None, FinishReason.ERROR, error=text, culprit="response_format")


@pytest.fixture
def make_client(make_service):
    def make(**settings):
        service = make_service(blame_the_schema)
        return TestClient(create_app(Settings(**settings), service.engine, service.registry))

    return make


@pytest.mark.parametrize(
    ("param", "own"),
    [
        ("messages", "input"),
        ("messages[3].tool_calls[0].id", "input"),
        ("prompt", "input"),
        ("max_tokens", "max_output_tokens"),
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format", "text.format"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("tools[0].function.parameters", "tools[0].parameters"),
        ("temperature", "temperature"),
    ],
)
def test_the_field_is_renamed_in_the_message_too(param: str, own: str) -> None:
    error = reworded(RequestError(f"Invalid '{param}': no.", param=param, code="invalid_value"))
    assert isinstance(error, RequestError)
    assert (error.param, error.code, str(error)) == (own, "invalid_value", f"Invalid '{own}': no.")


def test_other_names_in_quotes_stay() -> None:
    words = "there is no function 'messages' in 'tools'"
    assert str(reworded(RequestError(words, param="tool_choice"))) == words


def test_what_names_no_field_stays() -> None:
    for error in (CapacityError("full"), RequestError("wrong")):
        assert reworded(error) is error
    code = reworded(ContextLengthError("long")).code
    assert code == "context_length_exceeded"


def test_a_prompt_beyond_the_limit_of_the_server_is_the_input(make_client) -> None:
    answer = make_client(max_prompt_tokens=1).post("/v1/responses", json=ASKED)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")


def test_a_schema_that_fails_on_the_way_is_the_texts_format(make_client) -> None:
    client = make_client()
    whole = client.post("/v1/responses", json=ASKED)
    streamed = client.post("/v1/responses", json={**ASKED, "stream": True})
    last = json.loads(streamed.text.strip().rpartition("data: ")[2])
    assert whole.status_code == 400
    for error in (whole.json()["error"], last):
        assert error["param"] == "text.format"
        assert error["message"] == "Invalid 'text.format': it cannot be used"
