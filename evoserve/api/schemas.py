"""Bodies of the HTTP API: every field of OpenAI's is honoured, a documented no-op, or refused.

`docs/api.md` says which is which. Unknown fields and silent conversions (`"1"` for 1) are refused.
Requests are pydantic models; answers are typed dictionaries, written to the wire as they are.
"""

import re
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic's wish below Python 3.12

from evoserve.api.field import (
    MAX_STOP_CHARS,
    MAX_TOKEN_ID,
    Penalty,
    Schema,
    StopString,
    TokenId,
    only,
)
from evoserve.api.field import Body as Body
from evoserve.api.field import ModelName as ModelName
from evoserve.api.messages import Message
from evoserve.api.structured import ResponseFormat, StructuredOutputs
from evoserve.api.tools import Tool, ToolChoiceField

MAX_STOPS = 16
MAX_N = 128
MAX_TOKENS = 2**31 - 1

Prompt = str | tuple[int, ...]


def _listed(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _without_zeros(value: object) -> object:
    """A bias of zero changes nothing, whatever its key names."""
    if not isinstance(value, dict):
        return value
    return {key: bias for key, bias in value.items() if type(bias) not in (int, float) or bias}


def _parse_id(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}", value):
        return int(value)
    raise PydanticCustomError("invalid_value", "must be a token id")


def _only_scores(value: object) -> object:
    """Scores may be missing; a policy that blocks would be broken by ignoring it."""
    if "block" in str(value):
        raise PydanticCustomError("unsupported", "this server cannot block; mode must be 'score'")
    return value


def _never_calls(value: object) -> object:
    if value not in (None, "none"):
        message = "not supported; send 'tools' and 'tool_choice' instead"
        raise PydanticCustomError("unsupported", message)
    return value


def _is_token_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKEN_ID


def _parse_prompts(value: object) -> tuple[Prompt, ...]:
    """One prompt or a list of them, each a string or a list of token ids."""
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return tuple(value)
        if all(map(_is_token_id, value)):
            return (tuple(value),)
        if all(isinstance(item, list) and item and all(map(_is_token_id, item)) for item in value):
            return tuple(tuple(item) for item in value)
    raise PydanticCustomError(
        "invalid_type",
        "must be a string, a list of strings, token ids, or a list of token id lists",
    )


_IDS = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID},
    "minItems": 1,
}
_PROMPTS = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        _IDS,
        {"type": "array", "items": _IDS, "minItems": 1},
    ]
}
_STOP = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
_STOPS = {
    "anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}, {"const": None}]
}
_BIASES = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": "^[0-9]{1,9}$"},
    "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
}

TokenKey = Annotated[int, BeforeValidator(_parse_id), Field(ge=0, le=MAX_TOKEN_ID)]


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingBody(Body):
    """What both completion endpoints take; the last block is vLLM's."""

    model: ModelName
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_N)] = None
    stop: Annotated[
        list[StopString],
        Field(max_length=MAX_STOPS),
        BeforeValidator(_listed),
        WithJsonSchema(_STOPS),
    ] = []
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    logit_bias: Annotated[
        dict[TokenKey, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None,
        BeforeValidator(_without_zeros),
        WithJsonSchema(_BIASES),
    ] = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    top_k: Annotated[int | None, Field(ge=-1, le=MAX_TOKEN_ID)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=2, allow_inf_nan=False)] = None
    min_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=128)] = None
    structured_outputs: StructuredOutputs | None = None

    def without_effect(self) -> list[str]:
        """Fields that were taken although nothing here does what they ask for."""
        return []


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0)] = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None

    metadata: dict[str, str] | None = None
    prediction: Schema | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Schema | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    safety_identifier: str | None = None
    service_tier: Annotated[None, only("auto", "default")] = None

    audio: Schema | None = None
    moderation: Annotated[Schema | None, BeforeValidator(_only_scores)] = None
    store: bool | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    web_search_options: Schema | None = None

    function_call: Annotated[Literal["none"] | None, BeforeValidator(_never_calls)] = None
    functions: list[Schema] | None = None
    modalities: Annotated[None, only(["text"])] = None
    reasoning_effort: Annotated[None, only("none")] = None

    def without_effect(self) -> list[str]:
        """Fields that were taken although nothing here does what they ask for."""
        names = ("audio", "moderation", "store", "verbosity", "web_search_options")
        return [name for name in names if getattr(self, name) not in (None, False)]


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Annotated[tuple[Prompt, ...], PlainValidator(_parse_prompts), WithJsonSchema(_PROMPTS)]
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0)] = None
    best_of: Annotated[int | None, Field(ge=0, le=MAX_N)] = None
    suffix: str | None = None


class TokenizeBody(Body):
    """POST /tokenize: either a prompt or messages, as in vLLM."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """POST /detokenize, as in vLLM."""

    model: ModelName | None = None
    tokens: list[TokenId]


class ErrorDetail(TypedDict):
    """What went wrong: `param` names the field, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(TypedDict):
    """The body of every answer that is not 2xx, and the last event of a stream that broke."""

    error: ErrorDetail


class CachedTokens(TypedDict):
    """Prompt tokens whose KV blocks were reused."""

    cached_tokens: int


class Usage(TypedDict):
    """Tokens of a request: each prompt once, the generated ones of all its choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class Choice(TypedDict):
    """One choice; `message`, `delta` or `text` is there by endpoint and by streaming or not."""

    index: int
    message: NotRequired[dict[str, Any]]
    delta: NotRequired[dict[str, Any]]
    text: NotRequired[str]
    logprobs: dict[str, Any] | None
    finish_reason: str | None


class Answer(TypedDict):
    """An answer, or one chunk of a streamed one."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: NotRequired[Usage | None]


class ModelCard(TypedDict):
    """One served name; `root` is the full id of the recipe behind it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(TypedDict):
    """GET /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]


class TokenizeAnswer(TypedDict):
    """Token ids of a text, and the strings of each if asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeAnswer(TypedDict):
    """The text of token ids."""

    prompt: str
