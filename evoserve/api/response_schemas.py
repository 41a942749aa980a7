"""Bodies of /v1/responses; what needs a memory of earlier answers is refused."""

from typing import Annotated, Literal

from pydantic import Field

from evoserve.api.field import MAX_TOKEN_ID, Body, ModelName, Refused, Schema, only
from evoserve.api.response_items import Input
from evoserve.api.response_kinds import one_of
from evoserve.api.tools import FunctionName, ToolChoiceField

LOGPROBS = "message.output_text.logprobs"


class PlainFormat(Body):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]


class SchemaFormat(Body):
    """JSON of a schema, in this endpoint's flat form."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: Annotated[Schema, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


TextFormat = Annotated[PlainFormat | SchemaFormat, one_of(PlainFormat, SchemaFormat)]


class TextOptions(Body):
    """How to word the text."""

    format: TextFormat | None = None
    verbosity: Annotated[None, only("medium")] = None


class Reasoning(Body):
    """How to think first: not at all."""

    effort: Annotated[None, only("none")] = None
    context: Annotated[None, only("auto")] = None
    mode: Annotated[None, only("standard")] = None
    summary: Refused = None
    generate_summary: Refused = None


class ResponseStreamOptions(Body):
    """How to stream."""

    include_obfuscation: Annotated[None, only(False)] = None


class ResponseTool(Body):
    """A function the model may call, in this endpoint's flat form."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None


class ResponsesBody(Body):
    """POST /v1/responses."""

    model: ModelName
    input: Input
    instructions: str | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1, le=MAX_TOKEN_ID)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    top_logprobs: Annotated[int | None, Field(ge=0)] = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    text: TextOptions | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Schema | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    safety_identifier: str | None = None
    service_tier: Annotated[None, only("auto", "default")] = None
    truncation: Annotated[None, only("disabled")] = None
    background: Annotated[None, only(False)] = None
    store: Annotated[None, only(False)] = None
    stream_options: ResponseStreamOptions | None = None
    reasoning: Reasoning | None = None
    access_programs: Refused = None
    background_options: Refused = None
    image: Refused = None
    previous_response_id: Refused = None
    conversation: Refused = None
    context_management: Refused = None
    max_tool_calls: Refused = None
    moderation: Refused = None
    prompt: Refused = None
