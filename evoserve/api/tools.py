"""Tools of a request: which may or must be called, and the grammar of calls.

Calls are written as Hermes and Qwen models do: `<tool_call>`, a JSON object with `name` and
`arguments`, `</tool_call>`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from evoserve.api.field import Body, Schema
from evoserve.errors import RequestError

CALL_BEGIN = "<tool_call>"
CALL_END = "</tool_call>"
WHITESPACE = {"whitespace_pattern": r"[ \n\t]{0,20}"}  # between JSON's tokens; no endless blanks

FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]


@dataclass(frozen=True)
class ToolChoice:
    """none, auto and required, or the one function to call."""

    mode: Literal["none", "auto", "required", "named"]
    name: str | None = None


def _parse_choice(value: object) -> ToolChoice | None:
    if value is None or isinstance(value, ToolChoice):
        return value
    if value == "none" or value == "auto" or value == "required":
        return ToolChoice(value)
    if isinstance(value, dict) and value.get("type") == "function":
        function = value.get("function", value)
        if isinstance(function, dict) and isinstance(name := function.get("name"), str):
            return ToolChoice("named", name)
    raise PydanticCustomError(
        "unsupported",
        "must be 'none', 'auto', 'required' or {form}",
        {"form": "{'type': 'function', 'function': {'name': string}}"},
    )


_KIND = {"type": {"const": "function"}}
_NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
_NAMED = {"type": "object", "properties": {**_KIND, "function": _NAME}}
_FLAT = {"type": "object", "properties": {**_KIND, "name": {"type": "string"}}}
_CHOICE = {  # a function is named as in chat completions or, flat, as in responses
    "anyOf": [
        {"enum": [None, "none", "auto", "required"]},
        {**_NAMED, "required": ["type", "function"]},
        {**_FLAT, "required": ["type", "name"]},
    ]
}

ToolChoiceField = Annotated[
    ToolChoice | None, PlainValidator(_parse_choice), WithJsonSchema(_CHOICE)
]


class Function(Body):
    """What a tool does; `parameters` is a JSON schema of its arguments."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class Tool(Body):
    """A function the model may call."""

    type: Literal["function"]
    function: Function


@dataclass(frozen=True)
class ToolPlan:
    """What a request wants of its tools.

    shown: the tools the template renders; callable: those that may be called; is_parallel: may
    there be several calls?
    """

    choice: ToolChoice
    shown: tuple[Tool, ...] = ()
    callable: tuple[Tool, ...] = ()
    is_parallel: bool = True

    @property
    def is_forced(self) -> bool:
        """Must there be a call?"""
        return self.choice.mode in ("required", "named")

    def templated(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates take them."""
        dumped = [tool.model_dump(exclude_none=True) for tool in self.shown]
        return dumped or None


def plan_tools(
    tools: Sequence[Tool] | None, choice: ToolChoice | None, is_parallel: bool | None
) -> ToolPlan:
    """Check `tools`, `tool_choice` and `parallel_tool_calls` together. Raises RequestError."""
    given = tuple(tools or ())
    names = [tool.function.name for tool in given]
    for index, tool in enumerate(given):
        if (count := names.count(tool.function.name)) > 1:
            raise _wrong("tools", f"the name '{tool.function.name}' is given to {count} functions")
        if (tool.function.parameters or {}).get("type", "object") != "object":
            raise _wrong(f"tools[{index}].function.parameters", "its type must be 'object'")
    chosen = choice or ToolChoice("auto" if given else "none")
    if chosen.mode == "none" or not given:
        if chosen.mode in ("required", "named"):
            raise _wrong("tool_choice", "it needs 'tools'")
        return ToolPlan(ToolChoice("none"))
    if chosen.name is not None and chosen.name not in names:
        raise _wrong("tool_choice", f"there is no function '{chosen.name:.64}' in 'tools'")
    wanted = [tool for tool in given if chosen.name in (None, tool.function.name)]
    several = chosen.mode != "named" and is_parallel is not False
    return ToolPlan(chosen, given, tuple(wanted), several)


def call_rules(plan: ToolPlan) -> str:
    """Lark rules, of which `calls` is what a model that calls must say."""
    several = f' ("\\n" call){{0,{_MAX_CALLS - 1}}}' if plan.is_parallel else ""
    bodies, rules = [], []
    for index, tool in enumerate(plan.callable):
        head = json.dumps(f'{{"name": "{tool.function.name}", "arguments": ')
        bodies.append(f'{head} arguments_{index} "}}"')
        rules.append(f"arguments_{index}: %json {json.dumps(parameter_schema(tool))}")
    begin, end = json.dumps(f"{CALL_BEGIN}\n"), json.dumps(f"\n{CALL_END}")
    call = f"call: {begin} ({' | '.join(bodies)}) {end}"
    return "\n".join([f"calls: call{several}", call, *rules])


def parameter_schema(tool: Tool) -> Schema:
    """The JSON schema of a call's arguments: an object, whatever else."""
    schema = tool.function.parameters or {"properties": {}, "additionalProperties": False}
    return {**schema, "type": "object", "x-guidance": WHITESPACE}


_MAX_CALLS = 16  # of a required choice; a model without an opinion would never end


def _wrong(param: str, reason: str) -> RequestError:
    message = f"Invalid '{param}': {reason}."
    return RequestError(message, param=param, code="invalid_value")
