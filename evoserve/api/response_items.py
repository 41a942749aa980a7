"""Items of /v1/responses: what is sent becomes chat messages."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticCustomError

_ROLES = ("system", "developer", "user", "assistant")
_TEXT_PARTS = ("input_text", "output_text", "text")
_STRING = {"type": "string"}
_PART = {
    "type": "object",
    "properties": {"type": {"enum": list(_TEXT_PARTS)}, "text": _STRING},
    "required": ["type", "text"],
}
_CONTENT = {"anyOf": [_STRING, {"type": "array", "items": _PART}]}
_MESSAGE = {"type": {"const": "message"}, "role": {"enum": list(_ROLES)}, "content": _CONTENT}
_CALL = {
    "type": {"const": "function_call"},
    "call_id": _STRING,
    "name": _STRING,
    "arguments": _STRING,
}
_OUTPUT = {"type": {"const": "function_call_output"}, "call_id": _STRING, "output": _CONTENT}
INPUT_SCHEMA = {
    "anyOf": [
        _STRING,
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    {"type": "object", "properties": _MESSAGE, "required": ["role", "content"]},
                    {"type": "object", "properties": _CALL, "required": list(_CALL)},
                    {"type": "object", "properties": _OUTPUT, "required": list(_OUTPUT)},
                ]
            },
        },
    ]
}


def parse_input(value: object) -> list[dict[str, Any]]:
    """A string or a list of items as chat messages, calls joined to the message before them.

    Items: messages, `function_call` and `function_call_output`.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise _wrong("must be a string or a list of items")
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise _wrong(f"item {index} must be an object")
        kind = item.get("type", "message")
        if kind == "message":
            messages.append(_message(item, index))
        elif kind == "function_call":
            _add_call(messages, item, index)
        elif kind == "function_call_output":
            content = _text(item.get("output"), index)
            call_id = _string(item, "call_id", index)
            messages.append({"role": "tool", "content": content, "tool_call_id": call_id})
        else:
            raise PydanticCustomError(
                "unsupported",
                "item {index} has type {kind}; only message, function_call and "
                "function_call_output are supported",
                {"index": index, "kind": repr(kind)[:80]},
            )
    return messages


def _message(item: Mapping[str, Any], index: int) -> dict[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise _wrong(f"item {index}: role must be one of {', '.join(_ROLES)}")
    return {"role": role, "content": _text(item.get("content"), index)}


def _add_call(messages: list[dict[str, Any]], item: Mapping[str, Any], index: int) -> None:
    name, arguments = _string(item, "name", index), _string(item, "arguments", index)
    function = {"name": name, "arguments": arguments}
    call = {"id": _string(item, "call_id", index), "type": "function", "function": function}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append(call)


def _text(content: object, index: int) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(f"item {index}: its content must be a string or a list of text parts")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str) or part.get("type") not in _TEXT_PARTS:
            raise _wrong(f"item {index}: only parts of text are supported")
        texts.append(text)
    return "\n".join(texts)


def _string(item: Mapping[str, Any], name: str, index: int) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise _wrong(f"item {index}: {name} must be a string")
    return value


def _wrong(reason: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_type", "{reason}", {"reason": reason})
