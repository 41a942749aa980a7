"""Bodies of the HTTP API: every field of OpenAI's is honoured, a documented no-op, or refused.

`docs/api.md` says which is which. Unknown fields and silent conversions (`"1"` for 1) are refused.
Requests are pydantic models; answers are typed dictionaries, written to the wire as they are.
"""

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_N = 128
MAX_TOKENS = 2**31 - 1
MAX_TOKEN_ID = 2**31 - 1

Prompt = str | tuple[int, ...]


def _only(*harmless: object) -> BeforeValidator:
    """Refuse everything but null and `harmless`, values that ask for what happens anyway."""

    def check(value: object) -> None:
        if value is None or any(value == allowed for allowed in harmless):
            return
        allowed = " or ".join(["null", *map(repr, harmless)])
        raise PydanticCustomError(
            "unsupported",
            "not supported yet; leave it out or send {allowed}",
            {"allowed": allowed},
        )

    return BeforeValidator(check)


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
                "part {index} must be {{'type': 'text', 'text': string}}",
                {"index": index},
            )
        texts.append(part["text"])
    return "\n".join(texts)


def _listed(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


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


Refused = Annotated[None, _only()]
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKEN_ID)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
ModelName = Annotated[str, Field(min_length=1, max_length=512)]


class Body(BaseModel):
    """Frozen; unknown fields and silent conversions are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class StreamOptions(Body):
    """How to stream."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[None, _only(False)] = None


class SamplingBody(Body):
    """What both completion endpoints take; the last block is vLLM's."""

    model: ModelName
    max_tokens: Annotated[int | None, Field(ge=0, le=MAX_TOKENS)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_N)] = None
    stop: Annotated[list[StopString], Field(max_length=MAX_STOPS), BeforeValidator(_listed)] = []
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    logit_bias: (
        dict[TokenId, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None
    ) = None
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


class Message(Body):
    """One message of a conversation; `content` may come as a list of text parts."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str, BeforeValidator(_join_text)]
    name: Annotated[str, Field(max_length=64)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None
    refusal: Refused = None
    annotations: Annotated[None, _only([])] = None
    audio: Refused = None
    function_call: Refused = None
    tool_calls: Annotated[None, _only([])] = None


class ChatBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1, le=MAX_TOKENS)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0)] = None
    add_generation_prompt: bool | None = None

    metadata: dict[str, str] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    service_tier: Annotated[None, _only("auto", "default")] = None
    store: Annotated[None, _only(False)] = None

    audio: Refused = None
    function_call: Annotated[None, _only("none")] = None
    functions: Annotated[None, _only([])] = None
    modalities: Annotated[None, _only(["text"])] = None
    moderation: Refused = None
    parallel_tool_calls: Refused = None
    prediction: Refused = None
    prompt_cache_options: Refused = None
    prompt_cache_retention: Refused = None
    reasoning_effort: Refused = None
    response_format: Annotated[None, _only({"type": "text"})] = None
    tool_choice: Annotated[None, _only("none")] = None
    tools: Annotated[None, _only([])] = None
    verbosity: Refused = None
    web_search_options: Refused = None


class CompletionBody(SamplingBody):
    """POST /v1/completions."""

    prompt: Annotated[tuple[Prompt, ...], PlainValidator(_parse_prompts)]
    echo: bool | None = None
    logprobs: Annotated[int | None, Field(ge=0)] = None
    best_of: Annotated[int | None, Field(ge=1, le=MAX_N)] = None
    suffix: Annotated[None, _only("")] = None


class TokenizeBody(Body):
    """POST /tokenize: either a prompt or messages, as in vLLM."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)] | None = None
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
    message: NotRequired[dict[str, str | None]]
    delta: NotRequired[dict[str, str]]
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
