"""Items of /v1/responses: OpenAI's keys are known, all others refused where they stand."""

import json
from collections.abc import Mapping
from typing import get_type_hints

import jsonschema
import pytest
from openai.types.responses import (
    EasyInputMessageParam,
    ResponseFormatTextJSONSchemaConfigParam,
    ResponseFunctionToolCallParam,
    ResponseInputTextParam,
    ResponseOutputMessageParam,
    ResponseOutputTextParam,
)
from openai.types.responses import response_input_item_param as items
from openai.types.shared_params import Reasoning as OpenAIReasoning
from pydantic import ValidationError

from evoserve.api.errors import invalid_body
from evoserve.api.field import Body
from evoserve.api.response_items import (
    FunctionCall,
    FunctionCallOutput,
    InputMessage,
    InputText,
    OutputText,
    chat_messages,
)
from evoserve.api.response_schemas import Reasoning, ResponsesBody, SchemaFormat
from evoserve.errors import RequestError

CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
DONE = {"type": "function_call_output", "call_id": "c", "output": "noon"}


def body_of(fields: Mapping[str, object]) -> dict[str, object]:
    return {"model": "m", "input": "hi", **fields}


def refusal(fields: Mapping[str, object]) -> RequestError:
    with pytest.raises(ValidationError) as caught:
        ResponsesBody.model_validate_json(json.dumps(body_of(fields)))
    return invalid_body(caught.value)


def is_documented(fields: Mapping[str, object]) -> bool:
    told = jsonschema.Draft202012Validator(ResponsesBody.model_json_schema())
    return told.is_valid(body_of(fields))


def said(**fields: object) -> dict[str, object]:
    return {"role": "user", "content": "hi", **fields}


def parts(*given: object) -> dict[str, object]:
    return {"input": [said(), said(content=list(given))]}


TEXT = {"type": "input_text", "text": "a"}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": 5}, "input", "invalid_type"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ["hi"]}, "input[0]", "invalid_type"),
        ({"input": [said(foo=1)]}, "input[0].foo", "unknown_parameter"),
        ({"input": [said(role="tool")]}, "input[0].role", "invalid_value"),
        ({"input": [said(), {"role": "user"}]}, "input[1].content", "missing_required_parameter"),
        ({"input": [said(content=5)]}, "input[0].content", "invalid_type"),
        ({"input": [said(status="odd")]}, "input[0].status", "invalid_value"),
        ({"input": [said(type="reasoning")]}, "input[0].type", "unsupported_parameter"),
        ({"input": [said(type=["message"])]}, "input[0].type", "unsupported_parameter"),
        (parts(TEXT, {**TEXT, "zzz": 1}), "input[1].content[1].zzz", "unknown_parameter"),
        (parts({**TEXT, "text": 1}), "input[1].content[0].text", "invalid_type"),
        (parts({"type": "input_text"}), "input[1].content[0].text", "missing_required_parameter"),
        (parts({"text": "a"}), "input[1].content[0].type", "missing_required_parameter"),
        (parts({"type": "input_image"}), "input[1].content[0].type", "unsupported_parameter"),
        (parts("a"), "input[1].content[0]", "invalid_type"),
        (parts({**TEXT, "logprobs": []}), "input[1].content[0].logprobs", "unknown_parameter"),
        ({"input": [{**CALL, "foo": 1}]}, "input[0].foo", "unknown_parameter"),
        ({"input": [{**CALL, "arguments": {}}]}, "input[0].arguments", "invalid_type"),
        ({"input": [{**CALL, "name": ""}]}, "input[0].name", "invalid_value"),
        ({"input": [{**CALL, "name": "f" * 65}]}, "input[0].name", "invalid_value"),
        ({"input": [{**CALL, "call_id": "c" * 257}]}, "input[0].call_id", "invalid_value"),
        ({"input": [{**CALL, "namespace": "n"}]}, "input[0].namespace", "unsupported_parameter"),
        ({"input": [{**CALL, "async": True}]}, "input[0].async", "unsupported_parameter"),
        ({"input": [CALL, {**DONE, "foo": 1}]}, "input[1].foo", "unknown_parameter"),
        ({"input": [{**DONE, "output": [{"type": "input_file"}]}]}, "input[0].output[0].type",
         "unsupported_parameter"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name",
         "missing_required_parameter"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema",
         "missing_required_parameter"),
        ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema",
         "unknown_parameter"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "unsupported_parameter"),
        ({"reasoning": {"effort": "low"}}, "reasoning.effort", "unsupported_parameter"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "unsupported_parameter"),
        ({"reasoning": {"foo": None}}, "reasoning.foo", "unknown_parameter"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation",
         "unsupported_parameter"),
    ],
)  # fmt: skip
def test_what_is_wrong_inside_is_named_and_documented(fields, param: str, code: str) -> None:
    error = refusal(fields)
    assert (error.param, error.code) == (param, code)
    assert f"'{param}'" in str(error)
    assert not is_documented(fields)


SCORED = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
ANSWERED = {
    "id": "msg_1",
    "type": "message",
    "status": "completed",
    "role": "assistant",
    "phase": "final_answer",
    "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": [SCORED]}],
}
CALLED = {**CALL, "id": "fc_1", "status": "completed", "caller": {"type": "direct"}}
LONGEST = {**CALL, "call_id": "c" * 256, "name": "f" * 64}


@pytest.mark.parametrize(
    "fields",
    [
        {"input": [ANSWERED]},
        {"input": [{**CALLED, "async": False, "namespace": None, "created_by": "me"}]},
        {"input": [LONGEST, {**DONE, "call_id": "c" * 256, "name": "f" * 64}]},
        {"input": [CALL, {**DONE, "id": None, "status": None, "output": [TEXT, TEXT]}]},
        parts({**TEXT, "prompt_cache_breakpoint": {"mode": "explicit"}}),
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
        {"text": {"format": {"type": "text"}}},
        {"text": {"format": None}},
        {"reasoning": {}},
        {"reasoning": {"effort": None}},
        {"reasoning": {"effort": "none", "summary": None}},
        {"stream_options": {}, "top_logprobs": 0, "include": []},
    ],
)
def test_what_changes_nothing_is_taken_and_documented(fields) -> None:
    ResponsesBody.model_validate_json(json.dumps(body_of(fields)))
    assert is_documented(fields)


@pytest.mark.parametrize(
    ("model", "params"),
    [
        (InputMessage, EasyInputMessageParam),
        (InputMessage, items.Message),
        (InputMessage, ResponseOutputMessageParam),
        (InputText, ResponseInputTextParam),
        (OutputText, ResponseOutputTextParam),
        (FunctionCall, ResponseFunctionToolCallParam),
        (FunctionCallOutput, items.FunctionCallOutput),
        (SchemaFormat, ResponseFormatTextJSONSchemaConfigParam),
        (Reasoning, OpenAIReasoning),
    ],
)
def test_every_key_of_openais_is_known(model: type[Body], params: type) -> None:
    known = {field.alias or name for name, field in model.model_fields.items()}
    assert set(get_type_hints(params)) <= known


def test_calls_join_the_message_before_them_and_outputs_follow() -> None:
    given = [said(), ANSWERED, CALL, {**CALL, "call_id": "d"}, {**DONE, "name": "f"}, CALL]
    body = ResponsesBody.model_validate_json(json.dumps(body_of({"input": given})))
    user, answered, done, called = chat_messages(body.input)
    assert user == {"role": "user", "content": "hi"}
    assert (answered["role"], answered["content"]) == ("assistant", "a")
    assert [call["id"] for call in answered["tool_calls"]] == ["c", "d"]
    assert done == {"role": "tool", "content": "noon", "tool_call_id": "c", "name": "f"}
    assert (called["role"], called["content"], len(called["tool_calls"])) == ("assistant", "", 1)
