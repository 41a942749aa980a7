"""Messages of a conversation, as they are sent and as chat templates take them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from evoserve.api.field import Body, Refused, only
from evoserve.errors import ContextLengthError


def _join_text(value: object) -> object:
    """A string, or the text parts of a list joined by newlines, as chat templates take strings."""
    if not isinstance(value, list):
        return value
    texts = []
    for index, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise PydanticCustomError(
                "unsupported",
                "part {index} has type {kind}; only parts of type 'text' are supported",
                {"index": index, "kind": repr(kind)},
            )
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError(
                "invalid_type",
                "part {index} must be {form}",
                {"index": index, "form": "{'type': 'text', 'text': string}"},
            )
        texts.append(part["text"])
    return "\n".join(texts)


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
_CONTENT = {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": _PART}]}


class CalledFunction(Body):
    """Name and arguments of a call; the arguments are JSON in a string."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    arguments: str


class MessageCall(Body):
    """A tool call that an assistant made earlier in the conversation."""

    id: Annotated[str, Field(max_length=256)]
    type: Literal["function"]
    function: CalledFunction


class Message(Body):
    """One message of a conversation; `content` may come as a list of text parts."""

    model_config = ConfigDict(json_schema_extra={"required": ["role"]})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_join_text), WithJsonSchema(_CONTENT)]
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: Refused = None
    annotations: Annotated[None, only([])] = None
    audio: Refused = None
    function_call: Refused = None
    tool_calls: list[MessageCall] | None = None

    @model_validator(mode="before")
    @classmethod
    def _calls_need_no_content(cls, value: object) -> object:
        """An assistant's message with tool calls may leave its content out."""
        if not isinstance(value, dict) or value.get("role") != "assistant":
            return value
        is_empty = value.get("content") is None and bool(value.get("tool_calls"))
        return {**value, "content": ""} if is_empty else value

    @model_validator(mode="after")
    def _fits_its_role(self) -> "Message":
        """Only assistants call tools, and a tool answers one call."""
        if self.tool_calls and self.role != "assistant":
            raise PydanticCustomError("invalid_value", "'tool_calls' are an assistant's")
        if self.role == "tool" and self.tool_call_id is None:
            raise PydanticCustomError("invalid_value", "a tool's message needs 'tool_call_id'")
        return self


def check_count(messages: Sequence[Message], max_model_len: int) -> None:
    """Raises ContextLengthError for more messages than tokens; each is one token at least."""
    if len(messages) > max_model_len:
        raise ContextLengthError(
            f"This model's maximum context length is {max_model_len} tokens, but there are "
            f"{len(messages)} in 'messages', each of them a token or more; send fewer.",
            param="messages",
        )


def template_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them: `developer` is `system`, unset fields are gone.

    The arguments of tool calls become objects, where they are JSON objects.
    """
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    dumped = message.model_dump(exclude_none=True)
    if message.role == "developer":
        dumped["role"] = "system"
    for call in dumped.get("tool_calls", ()):
        function = call["function"]
        function["arguments"] = _parse_object(function["arguments"])
    return dumped


def _parse_object(text: str) -> object:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text
