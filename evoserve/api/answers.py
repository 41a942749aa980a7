"""What routes answer, as the OpenAPI document tells it; the tests hold real answers against it."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic's wish below Python 3.12

from evoserve.api.schemas import Usage
from evoserve.api.service import Status
from evoserve.lifecycle.book import RecipeState

_exact = with_config(ConfigDict(extra="forbid"))


class TokenScore(TypedDict):
    """A token, the log-probability it had, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class ScoredTokens(TokenScore):
    """A token and the likeliest in its place."""

    top_logprobs: list[TokenScore]


class ChatLogprobs(TypedDict):
    """Log-probabilities of a chat's tokens."""

    content: list[ScoredTokens]
    refusal: None


class FunctionCall(TypedDict):
    """A function's name and its arguments, JSON in a string."""

    name: str
    arguments: str


@_exact
class ToolCall(TypedDict):
    """A call the model wants to be made."""

    id: str
    type: Literal["function"]
    function: FunctionCall


@_exact
class ChatMessage(TypedDict):
    """What the assistant says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]


@_exact
class ChatChoice(TypedDict):
    """One of a chat's `n` answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


@_exact
class ChatAnswer(TypedDict):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


@_exact
class TextLogprobs(TypedDict):
    """Log-probabilities of a completion's tokens; the first of an echoed prompt has none."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


@_exact
class TextChoice(TypedDict):
    """One completion of one prompt."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


@_exact
class CompletionAnswer(TypedDict):
    """Completions of prompts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage


class ResponseUsage(TypedDict):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class OutputMessage(TypedDict):
    """A text."""

    id: str
    type: Literal["message"]
    status: Literal["completed", "incomplete"]
    role: Literal["assistant"]
    content: list[dict[str, Any]]


class OutputCall(TypedDict):
    """A call; `arguments` is JSON in a string."""

    id: str
    type: Literal["function_call"]
    status: Literal["completed", "incomplete"]
    call_id: str
    name: str
    arguments: str


@_exact
class ResponseAnswer(TypedDict):
    """A response, with what was asked as it was understood."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    background: Literal[False]
    error: None
    incomplete_details: dict[str, str] | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: Annotated[list[OutputMessage | OutputCall], Field(min_length=1)]
    parallel_tool_calls: bool
    previous_response_id: None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]
    usage: ResponseUsage
    user: str | None


class ReadyAnswer(TypedDict):
    """Can requests be served?"""

    status: Status


class VersionAnswer(TypedDict):
    """The version of the server."""

    version: str


class IndexAnswer(TypedDict):
    """Where to go from here."""

    name: Literal["evoserve"]
    version: str
    models: str


@_exact
class RecipeCard(TypedDict):
    """A registered recipe; times in seconds since 1970, sizes in bytes."""

    id: str
    object: Literal["recipe"]
    name: str
    is_current: bool
    state: RecipeState
    reason: str | None
    pinned: bool
    aliases: list[str]
    origin: str | None
    created: float
    last_used: int
    progress: dict[str, float] | None
    needs: dict[str, int] | None
    loaded: dict[str, float] | None
    warnings: list[str]


class RecipeDetails(RecipeCard):
    """A recipe with its manifest."""

    manifest: dict[str, Any]


class RecipeList(TypedDict):
    """Every registered recipe."""

    object: Literal["list"]
    data: list[RecipeCard]


class DeletedRecipe(TypedDict):
    """A recipe that is gone."""

    id: str
    object: Literal["recipe"]
    deleted: Literal[True]


class AliasTarget(TypedDict):
    """A recipe and its share of an alias's requests."""

    recipe: str
    weight: float


@_exact
class AliasCard(TypedDict):
    """A state of an alias; `at` is in seconds since 1970."""

    id: str
    object: Literal["alias"]
    version: int
    action: str
    at: float
    targets: list[AliasTarget]


class AliasDetails(AliasCard):
    """An alias with all it has led to, the newest first."""

    history: list[AliasCard]


class AliasList(TypedDict):
    """Every alias."""

    object: Literal["list"]
    data: list[AliasCard]


class AliasChanging(TypedDict):
    """An alias that will move once its targets are loaded."""

    id: str
    object: Literal["alias"]
    state: Literal["changing"]
