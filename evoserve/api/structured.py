"""What an answer must look like: response formats, structured outputs and forced tool calls."""

import asyncio
import json
from typing import Annotated, Literal

from llguidance import LLMatcher
from pydantic import Field

from evoserve.api.field import Body, Schema
from evoserve.api.registry import ServedRecipe
from evoserve.api.tools import WHITESPACE, ToolPlan, call_rules, parameter_schema
from evoserve.engine.grammar import Grammar, unusable
from evoserve.errors import RequestError

_ANSWER = "response_format"
_OUTPUTS = "structured_outputs"


class JsonSchemaFormat(Body):
    """A named JSON schema; it is enforced whether `strict` is set or not."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[Schema | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's: any text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None


class StructuredOutputs(Body):
    """vLLM's; exactly one of them. `json`: a schema; `grammar`: Lark as llguidance reads it."""

    json_: Annotated[Schema | None, Field(alias="json")] = None
    regex: Annotated[str, Field(min_length=1)] | None = None
    choice: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = None
    grammar: Annotated[str, Field(min_length=1)] | None = None


async def answer_grammar(
    served: ServedRecipe,
    answer: ResponseFormat | None,
    outputs: StructuredOutputs | None,
    plan: ToolPlan | None = None,
) -> Grammar | None:
    """The grammar of everything a request may be answered with, None for anything.

    Raises RequestError that names the field whose schema or grammar cannot be used.
    """
    schema = None if answer is None else _schema(answer)
    if schema is not None and outputs is not None:
        raise _wrong(_OUTPUTS, f"send either it or '{_ANSWER}'")
    if plan is not None and plan.choice.mode != "none":
        if outputs is not None:
            raise _wrong(_OUTPUTS, "it cannot be combined with 'tools'")
        return await _compile_calls(served, plan, schema)
    if outputs is not None:
        param, source = _source(outputs)
        return await _compile(served, param, source)
    if schema is None:
        return None
    return await _compile(served, _ANSWER, _json_source(schema))


async def _compile_calls(
    served: ServedRecipe, plan: ToolPlan, schema: Schema | None
) -> Grammar | None:
    """A forced choice allows calls alone; else calls or the answer of the schema, if there is."""
    if not plan.is_forced and schema is None:
        return None
    start = "calls" if plan.is_forced else "calls | answer"
    rules = [f"start: {start}", call_rules(plan)]
    if not plan.is_forced and schema is not None:
        rules.append(f"answer: %json {json.dumps({**schema, 'x-guidance': WHITESPACE})}")
    for index, tool in enumerate(plan.shown):
        if tool in plan.callable:
            _check(f"tools[{index}].function.parameters", _json_source(parameter_schema(tool)))
    if schema is not None:
        _check(_ANSWER, _json_source(schema))
    return await _compile(served, "tools", "\n".join(rules))


async def _compile(served: ServedRecipe, param: str, source: str) -> Grammar:
    if not served.tokenizer.eos_token_ids:
        raise _wrong(param, "this model has no end token to end a structured answer with")
    return await asyncio.to_thread(Grammar, served.tokenizer, source, param)


def _check(param: str, source: str) -> None:
    reason = LLMatcher.validate_grammar(source)
    if reason and not reason.startswith("WARNING"):
        raise unusable(param, reason)


def _schema(answer: ResponseFormat) -> Schema | None:
    if answer.type != "json_schema":
        if answer.json_schema is not None:
            raise _wrong(f"{_ANSWER}.json_schema", f"type '{answer.type}' has none")
        return {"type": "object"} if answer.type == "json_object" else None
    if answer.json_schema is None:
        message = f"Missing required parameter: '{_ANSWER}.json_schema'."
        code = "missing_required_parameter"
        raise RequestError(message, param=f"{_ANSWER}.json_schema", code=code)
    return answer.json_schema.schema_ or {}


def _source(outputs: StructuredOutputs) -> tuple[str, str]:
    """The field that is set, and its grammar."""
    sources: dict[str, str] = {}
    if outputs.json_ is not None:
        sources["json"] = _json_source(outputs.json_)
    if outputs.regex is not None:
        sources["regex"] = LLMatcher.grammar_from_regex(outputs.regex)
    if outputs.choice is not None:
        sources["choice"] = "start: " + " | ".join(map(json.dumps, outputs.choice))
    if outputs.grammar is not None:
        sources["grammar"] = LLMatcher.grammar_from_lark(outputs.grammar)
    if len(sources) != 1:
        raise _wrong(_OUTPUTS, "exactly one of json, regex, choice and grammar must be set")
    ((name, source),) = sources.items()
    return f"{_OUTPUTS}.{name}", source


def _json_source(schema: Schema) -> str:
    text = json.dumps({**schema, "x-guidance": WHITESPACE})
    return LLMatcher.grammar_from_json_schema(text)


def _wrong(param: str, reason: str) -> RequestError:
    return RequestError(f"Invalid '{param}': {reason}.", param=param, code="invalid_value")
