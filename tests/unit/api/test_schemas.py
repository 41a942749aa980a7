"""Every field is honoured, a no-op or refused by name; nothing is ignored, converted or guessed."""

import json
from pathlib import Path
from typing import get_type_hints

import pytest
from openai.types import completion_create_params as completion_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params
from pydantic import ValidationError

from evoserve.api.errors import invalid_body
from evoserve.api.response_schemas import ResponsesBody
from evoserve.api.schemas import Body, ChatBody, CompletionBody
from evoserve.api.tools import Tool, ToolChoice, plan_tools
from evoserve.errors import RequestError

DOCS = Path(__file__).parents[3] / "docs" / "api.md"
MESSAGES = [{"role": "user", "content": "hi"}]
CALLED = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def refusal(kind: type[Body], raw: str) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(raw)
    return invalid_body(caught.value)


def chat(**fields: object) -> str:
    return json.dumps({"model": "m", "messages": MESSAGES, **fields})


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (ChatBody, chat_params.CompletionCreateParamsBase),
        (CompletionBody, completion_params.CompletionCreateParamsBase),
        (ResponsesBody, response_params.ResponseCreateParamsBase),
    ],
)
def test_every_field_of_openai_is_known_and_documented(kind: type[Body], params: type) -> None:
    documented = DOCS.read_text(encoding="utf-8")
    fields = {*get_type_hints(params), "stream"}
    assert fields <= set(kind.model_fields)
    assert [name for name in kind.model_fields if f"`{name}`" not in documented] == []


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"foo": 1}, "foo", "unknown_parameter"),
        ({"stream_options": {"foo": 1}}, "stream_options.foo", "unknown_parameter"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 129}, "n", "invalid_value"),
        ({"n": 1.5}, "n", "invalid_type"),
        ({"max_tokens": 10.0}, "max_tokens", "invalid_type"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"stop": ""}, "stop[0]", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"logit_bias": {"foo": 1}}, "logit_bias.foo", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias.-1", "invalid_value"),
        ({"presence_penalty": 2.5}, "presence_penalty", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "u", "content": ""}]}, "messages[0].role", "invalid_value"),
        (
            {"messages": [*MESSAGES, {"role": "user"}]},
            "messages[1].content",
            "missing_required_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
            "messages[0].content",
            "invalid_type",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].id",
            "missing_required_parameter",
        ),
        (
            {"tools": [{"type": "function"}]},
            "tools[0].function",
            "missing_required_parameter",
        ),
        ({"tool_choice": "any"}, "tool_choice", "unsupported_parameter"),
        ({"function_call": "auto"}, "function_call", "unsupported_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        ({"moderation": {"policy": {"mode": "block"}}}, "moderation", "unsupported_parameter"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], param: str, code: str) -> None:
    error = refusal(ChatBody, chat(**fields))
    assert (error.param, error.code) == (param, code)
    assert param in str(error)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": None, "temperature": None, "n": None, "stream": None, "tools": None},
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "none"},
        {"response_format": {"type": "text"}, "store": False, "service_tier": "auto"},
        {"modalities": ["text"], "metadata": {"a": "b"}, "user": "u", "temperature": 1},
    ],
)
def test_harmless_values_are_taken(fields: dict[str, object]) -> None:
    ChatBody.model_validate_json(chat(**fields))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"model": "\\ud800"}', "not valid JSON"),
        ("[]", "must be a JSON object"),
        ('{"model": "m", "messages": [], "temperature": NaN}', "temperature"),
        ('{"model": "m", "messages": [], "top_p": 1e999}', "top_p"),
    ],
)
def test_what_is_not_a_json_object_of_finite_numbers(raw: str, words: str) -> None:
    assert words in str(refusal(ChatBody, raw.replace('"messages": []', '"messages": 1')[:300_000]))


def test_a_huge_unknown_name_is_not_sent_back() -> None:
    error = refusal(ChatBody, chat(**{"x" * 10_000: 1}))
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "tool", "content": "1"}, "tool_call_id"),
        ({"role": "user", "content": "1", "tool_calls": [CALLED]}, "tool_calls"),
        ({"role": "user", "content": [{"type": "text"}]}, "{'type': 'text', 'text': string}"),
    ],
)
def test_a_message_of_another_role_s_shape_is_refused(message: object, words: str) -> None:
    error = refusal(ChatBody, chat(messages=[{"role": "user", "content": "a"}, message]))
    assert words in str(error)
    assert error.param is not None
    assert error.param.startswith("messages[1]")
    assert "{{" not in str(error)


@pytest.mark.parametrize("kind", ["array", "nonsense", ["object"], 5])
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_parameters_of_a_tool_are_an_object(kind: object, mode: str) -> None:
    tools = [Tool(type="function", function={"name": "f", "parameters": {"type": kind}})]
    with pytest.raises(RequestError, match="must be 'object'") as caught:
        plan_tools(tools, ToolChoice(mode), None)
    assert caught.value.param == "tools[0].function.parameters"


def test_text_parts_are_joined_and_a_stop_string_is_a_list() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = ChatBody.model_validate_json(
        chat(messages=[{"role": "user", "content": parts}], stop="x", logit_bias={"5": -1})
    )
    assert body.messages[0].content == "a\nb"
    assert body.stop == ["x"]
    assert body.logit_bias == {5: -1.0}


@pytest.mark.parametrize(
    ("prompt", "parsed"),
    [
        ("a", ("a",)),
        (["a", ""], ("a", "")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 3]], ((1,), (2, 3))),
        ([], None),
        ([[]], None),
        ([True], None),
        ([-1], None),
        ([2**31], None),
        (["a", 1], None),
        ([[1], "a"], None),
        (5, None),
        (None, None),
    ],
)
def test_prompts_are_text_or_token_ids(prompt: object, parsed: object) -> None:
    raw = json.dumps({"model": "m", "prompt": prompt})
    if parsed is None:
        assert refusal(CompletionBody, raw).param == "prompt"
    else:
        assert CompletionBody.model_validate_json(raw).prompt == parsed
