"""What the OpenAPI document says of each route beyond what the route itself tells."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evoserve.api import answers
from evoserve.api.aliases import AliasBody, RollbackBody
from evoserve.api.response_schemas import ResponsesBody
from evoserve.api.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeAnswer,
    DetokenizeBody,
    ModelCard,
    ModelList,
    TokenizeAnswer,
    TokenizeBody,
)
from evoserve.manifest.schema import Manifest

SSE = "text/event-stream"
STICKY = ("x-evoserve-sticky",)
CHUNKS = "chat.completion.chunk objects, then [DONE]; an error is an object `error`"
TEXT_CHUNKS = "text_completion objects, then [DONE]; an error is an object `error`"
EVENTS = "OpenAI's response events, numbered"
LIFECYCLE_EVENTS = "events `recipe`, `alias`, `watch` and, where some are lost, `gap`, with ids"
PAGE = "the page for browsers"


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    answer: the type of the JSON answer, None for no body, under `statuses`; texts: other media
    types of a 200 and what they hold; errors: beyond those that every route has; flags: boolean
    query parameters that are true unless told; headers: that it reads.
    """

    answer: object = None
    guard: Literal["key", "admin", "metrics"] | None = None
    body: type | None = None
    media: tuple[str, ...] = ("application/json",)
    needs_body: bool = True
    statuses: Mapping[int, object] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    errors: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()


def _generates(body: type, answer: object, events: str) -> Operation:
    return Operation(
        answer, "key", body, texts={SSE: events}, errors=(404, 409, 429), headers=STICKY
    )


def _changes(answer: object, flags: tuple[str, ...] = (), status: int | None = None) -> Operation:
    statuses = {} if status is None else {status: answer}
    return Operation(answer, "admin", statuses=statuses, errors=(404, 409), flags=flags)


_YAML = ("application/yaml", "application/x-yaml", "text/yaml")
_CARD = answers.RecipeCard

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("/v1/chat/completions", "post"): _generates(ChatBody, answers.ChatAnswer, CHUNKS),
    ("/v1/completions", "post"): _generates(CompletionBody, answers.CompletionAnswer, TEXT_CHUNKS),
    ("/v1/responses", "post"): _generates(ResponsesBody, answers.ResponseAnswer, EVENTS),
    ("/v1/models", "get"): Operation(ModelList, "key"),
    ("/v1/models/{name}", "get"): Operation(ModelCard, "key", errors=(404,)),
    ("/tokenize", "post"): Operation(
        TokenizeAnswer, "key", TokenizeBody, errors=(404, 409, 429), headers=STICKY
    ),
    ("/detokenize", "post"): Operation(
        DetokenizeAnswer, "key", DetokenizeBody, errors=(404, 409, 429), headers=STICKY
    ),
    ("/v1/recipes", "get"): Operation(answers.RecipeList, "admin"),
    ("/v1/recipes", "post"): Operation(
        _CARD, "admin", Manifest, ("application/json", *_YAML), statuses={201: _CARD},
        errors=(409,),
    ),
    ("/v1/recipes/events", "get"): Operation(
        guard="admin", texts={SSE: LIFECYCLE_EVENTS}, headers=("last-event-id",)
    ),
    ("/v1/recipes/{name}", "get"): Operation(answers.RecipeDetails, "admin", errors=(404,)),
    ("/v1/recipes/{name}", "delete"): _changes(answers.DeletedRecipe),
    ("/v1/recipes/{name}/load", "post"): _changes(_CARD, ("wait",), 202),
    ("/v1/recipes/{name}/unload", "post"): _changes(_CARD, ("drain",)),
    ("/v1/recipes/{name}/pin", "post"): _changes(_CARD),
    ("/v1/recipes/{name}/unpin", "post"): _changes(_CARD),
    ("/v1/aliases", "get"): Operation(answers.AliasList, "admin"),
    ("/v1/aliases/{name}", "get"): Operation(answers.AliasDetails, "admin", errors=(404,)),
    ("/v1/aliases/{name}", "put"): Operation(
        answers.AliasCard, "admin", AliasBody, statuses={202: answers.AliasChanging},
        errors=(404, 409), flags=("wait",),
    ),
    ("/v1/aliases/{name}", "delete"): _changes(answers.AliasCard),
    ("/v1/aliases/{name}/rollback", "post"): Operation(
        answers.AliasCard, "admin", RollbackBody, needs_body=False, errors=(404, 409)
    ),
    ("/live", "get"): Operation(statuses={503: None}),
    ("/health", "get"): Operation(statuses={503: None}),
    ("/ready", "get"): Operation(answers.ReadyAnswer, statuses={503: answers.ReadyAnswer}),
    ("/version", "get"): Operation(answers.VersionAnswer),
    ("/openapi.json", "get"): Operation(dict, "key"),
    ("/metrics", "get"): Operation(
        guard="metrics", texts={"text/plain": "Prometheus' text format"}
    ),
    ("/", "get"): Operation(answers.IndexAnswer, texts={"text/html": PAGE}, statuses={304: None}),
    ("/ui/{name}", "get"): Operation(
        texts=dict.fromkeys(("text/html", "text/css", "text/javascript", "image/svg+xml"), PAGE),
        statuses={304: None}, errors=(404,),
    ),
}  # fmt: skip
