"""Items of /v1/responses: what is sent becomes chat messages.

Answers may be sent back as they came: their ids, states, log-probabilities and the like are taken,
and change nothing.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainValidator, TypeAdapter
from pydantic_core import PydanticCustomError

from evoserve.api.field import Body, Refused, Schema, only
from evoserve.api.response_kinds import one_of

Status = Literal["in_progress", "completed", "incomplete"]
CallId = Annotated[str, Field(max_length=256)]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class InputText(Body):
    """A text for the model."""

    type: Literal["input_text", "text"]
    text: str
    prompt_cache_breakpoint: Schema | None = None


class OutputText(Body):
    """A text of the model."""

    type: Literal["output_text"]
    text: str
    annotations: list[Schema] | None = None
    logprobs: list[Schema] | None = None


Part = Annotated[InputText | OutputText, one_of(InputText, OutputText)]
_PARTS = TypeAdapter(list[Part])


def _join_parts(value: object) -> str:
    """A string, or the texts of parts joined by newlines, as chat templates take strings."""
    if isinstance(value, list):
        return "\n".join(part.text for part in _PARTS.validate_python(value, strict=True))
    if not isinstance(value, str):
        raise PydanticCustomError("content_type", "must be a string or a list of text parts")
    return value


Content = Annotated[str, PlainValidator(_join_parts, json_schema_input_type=str | list[Part])]


class InputMessage(Body):
    """A message of anyone, an answer of this endpoint included."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCall(Body):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: str
    id: str | None = None
    status: Status | None = None
    created_by: str | None = None
    caller: Annotated[None, only({"type": "direct"})] = None
    async_: Annotated[None, only(False), Field(alias="async")] = None
    namespace: Refused = None


class FunctionCallOutput(Body):
    """What a call led to."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Content
    name: Annotated[str, Field(max_length=64)] | None = None
    id: str | None = None
    status: Status | None = None
    created_by: str | None = None
    caller: Annotated[None, only({"type": "direct"})] = None
    namespace: Refused = None


Item = Annotated[
    InputMessage | FunctionCall | FunctionCallOutput,
    one_of(InputMessage, FunctionCall, FunctionCallOutput),
]


def _listed(value: object) -> object:
    """A string is one message of the user."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise PydanticCustomError("input_type", "must be a string or a list of items")
    return value


Items = Annotated[list[Item], Field(min_length=1)]
Input = Annotated[Items, BeforeValidator(_listed, json_schema_input_type=str | Items)]


def chat_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """The items as messages of a chat request, calls joined to the message before them."""
    messages: list[dict[str, Any]] = []
    for item in items:
        if isinstance(item, InputMessage):
            messages.append({"role": item.role, "content": item.content})
        elif isinstance(item, FunctionCall):
            _add_call(messages, item)
        else:
            told = {"content": item.output, "tool_call_id": item.call_id, "name": item.name}
            messages.append({"role": "tool", **told})
    return messages


def _add_call(messages: list[dict[str, Any]], item: FunctionCall) -> None:
    function = {"name": item.name, "arguments": item.arguments}
    call = {"id": item.call_id, "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(call)
