"""The OpenAPI document, made of the routes, the models that check bodies, and `OPERATIONS`."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from evoserve.api.operations import OPERATIONS, Operation
from evoserve.api.schemas import ErrorAnswer

ANY_ROUTE = (400, 408, 500, 503)  # of the connection, a bug, and a server that stops
GUARDS = {
    "key": ("apiKey", (401,)),
    "admin": ("adminKey", (401, 403)),
    "metrics": ("apiKey", (401,)),
}
REASONS = {
    200: "It is done.",
    201: "It is new.",
    202: "It has begun.",
    304: "The client has it.",
    400: "Something in the request is wrong; `param` names it.",
    401: "The key is missing or wrong.",
    403: "Recipes and aliases cannot be managed here.",
    404: "There is none of this name.",
    408: "The request did not arrive in time.",
    409: "Not as things stand.",
    413: "The body is too large.",
    415: "The body is of another type.",
    429: "The key has used up its minute; see Retry-After.",
    500: "An error of the server.",
    503: "Not now: the server is full, loading or stopping; see Retry-After.",
}
SCHEMES = {
    "apiKey": "One of the server's API keys, where it has any.",
    "adminKey": "The admin key; without one, recipes are managed from the server's machine alone, "
    "with an API key where there is any.",
}

Json = dict[str, Any]


def build_document(app: FastAPI) -> Json:
    """OpenAPI 3.1 of every route of `app`. Raises KeyError for one that OPERATIONS lacks."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    refs, schemas = _schemas()
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            _complete(told, OPERATIONS[path, method], refs)
    described = {name: {"type": "http", "scheme": "bearer", "description": text}
                 for name, text in SCHEMES.items()}  # fmt: skip
    document["components"] = {"schemas": schemas, "securitySchemes": described}
    return document


def _schemas() -> tuple[Mapping[object, Json], Json]:
    """References by type, and the schemas they lead to."""
    answers: dict[Any, None] = {ErrorAnswer: None}
    bodies: dict[Any, None] = {}
    for operation in OPERATIONS.values():
        for kind in (operation.answer, *operation.statuses.values()):
            if kind is not None:
                answers[kind] = None
        if operation.body is not None:
            bodies[operation.body] = None
    inputs: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        (kind, mode, TypeAdapter(kind))
        for mode, kinds in (("serialization", answers), ("validation", bodies))
        for kind in kinds
    ]
    found, definitions = TypeAdapter.json_schemas(
        inputs, ref_template="#/components/schemas/{model}"
    )
    return {kind: schema for (kind, _), schema in found.items()}, definitions["$defs"]


def _complete(told: Json, operation: Operation, refs: Mapping[object, Json]) -> None:
    """Put what is known of an operation into what FastAPI says of it."""
    errors = {*ANY_ROUTE, *operation.errors}
    if operation.guard is not None:
        scheme, refusals = GUARDS[operation.guard]
        told["security"] = [{scheme: []}, {}]
        errors.update(refusals)
    if operation.body is not None:
        errors.update((413, 415))
        content = {media: {"schema": refs[operation.body]} for media in operation.media}
        told["requestBody"] = {"required": operation.needs_body, "content": content}
    told["responses"] = {
        **{str(status): _answer(status, refs[ErrorAnswer]) for status in sorted(errors)},
        "200": _answer(200, _ref(operation.answer, refs), operation.texts),
        **{str(s): _answer(s, _ref(kind, refs)) for s, kind in operation.statuses.items()},
    }
    parameters = told.get("parameters", [])
    parameters += [_parameter("query", name, {"type": "boolean", "default": True})
                   for name in operation.flags]  # fmt: skip
    parameters += [_parameter("header", name, {"type": "string"}) for name in operation.headers]
    if parameters:
        told["parameters"] = parameters


def _ref(kind: object, refs: Mapping[object, Json]) -> Json | None:
    return None if kind is None else refs[kind]


def _answer(status: int, schema: Json | None, texts: Mapping[str, str] | None = None) -> Json:
    """One status; what its texts hold is said in words: a schema would be that of each event."""
    content: Json = {} if schema is None else {"application/json": {"schema": schema}}
    content |= {media: {} for media in texts or {}}
    words = [REASONS[status], *(f"{media}: {holds}" for media, holds in (texts or {}).items())]
    told = {"description": " ".join(words)}
    return {**told, "content": content} if content else told


def _parameter(place: str, name: str, schema: Json) -> Json:
    return {"name": name, "in": place, "required": False, "schema": schema}
