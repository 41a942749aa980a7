"""Whatever is sent, the answer is an error of OpenAI's shape that names the culprit."""

import json

import httpx
import openai
import pytest

CHAT = "/v1/chat/completions"
GOOD = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


def chat(**fields: object) -> str:
    return json.dumps({**GOOD, **fields})


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        (CHAT, chat(model="nobody"), 404, "model", "model_not_found"),
        (CHAT, chat(messages=[{"role": "user", "content": 5}]), 400, "messages[0].content",
         "invalid_type"),
        (CHAT, chat(surprise=1), 400, "surprise", "unknown_parameter"),
        (CHAT, chat(messages=[{"role": "user", "content": "long " * 30_000}]), 400, "messages",
         "context_length_exceeded"),
        (CHAT, chat(max_tokens=10**6), 400, "messages", "context_length_exceeded"),
        (CHAT, "{not json", 400, None, None),
        (CHAT, chat(n=0), 400, "n", "invalid_value"),
        (CHAT, chat(n="2"), 400, "n", "invalid_type"),
        (CHAT, chat(temperature=9), 400, "temperature", "invalid_value"),
        (CHAT, '{"model":"tiny","messages":[{"role":"user","content":"hi"}],"temperature":NaN}',
         400, "temperature", "invalid_value"),
        (CHAT, chat(logit_bias={"99999999": 1}), 400, "logit_bias", None),
        (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs", "invalid_value"),
        (CHAT, chat(top_logprobs=2), 400, "top_logprobs", "invalid_value"),
        (CHAT, chat(max_completion_tokens=3), 400, "max_tokens", "invalid_value"),
        (CHAT, chat(min_tokens=3), 400, "min_tokens", None),
        (CHAT, chat(tools=[{"type": "function"}]), 400, "tools[0].function",
         "missing_required_parameter"),
        (CHAT, chat(tools=[{"type": "function", "function": {"name": "f"}}]), 400, "tools", None),
        (CHAT, chat(functions=[{"name": "f"}]), 400, "functions", "unsupported_parameter"),
        ("/v1/completions", '{"model":"tiny","prompt":"a","suffix":"b"}', 400, "suffix",
         "unsupported_parameter"),
        ("/v1/completions", '{"model":"tiny","prompt":""}', 400, "prompt", None),
        ("/v1/completions", '{"model":"tiny","prompt":[99999999]}', 400, "prompt", None),
        ("/v1/completions", '{"model":"tiny","prompt":"a","best_of":2}', 400, "best_of",
         "unsupported_parameter"),
        ("/v1/completions", '{"model":"tiny","prompt":"a","logprobs":21}', 400, "logprobs", None),
        ("/v1/completions", json.dumps({"model": "tiny", "prompt": ["a"] * 2000}), 400, "prompt",
         "invalid_value"),
        ("/tokenize", '{"model":"tiny"}', 400, "prompt", None),
        ("/nowhere", "{}", 404, None, None),
        ("/v1/models", "{}", 405, None, None),
    ],
)  # fmt: skip
def test_a_bad_request_is_named(live, path, body, status, param, code) -> None:
    answer = httpx.post(
        live.url + path, content=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]


def test_a_stream_that_cannot_start_has_a_status(live) -> None:
    answer = httpx.post(live.url + CHAT, json={**GOOD, "stream": True, "max_tokens": 10**6})
    assert answer.status_code == 400


def test_a_huge_body_is_refused(live) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        live.client().chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x" * 10_000_000}]
        )
    assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")


def test_a_huge_chunked_body_is_refused_while_it_comes(locked) -> None:
    def chunks():
        for _ in range(1000):
            yield b" " * 4096

    answer = httpx.post(
        locked.url + CHAT,
        content=chunks(),
        headers={"Content-Type": "application/json", "Authorization": "Bearer secret"},
    )
    assert answer.status_code == 413
    assert "4096" in answer.json()["error"]["message"]


def test_a_form_is_refused(live) -> None:
    answer = httpx.post(live.url + CHAT, data={"model": "tiny"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_wrong_key_is_refused(locked) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        locked.client("wrong").models.list()
    assert caught.value.code == "invalid_api_key"
    assert len(locked.client("secret").models.list().data) == 3
    for path in ("/health", "/ready", "/version", "/metrics", "/"):
        assert httpx.get(locked.url + path).status_code == 200


def test_405_says_what_is_allowed(live) -> None:
    answer = httpx.get(live.url + CHAT)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
