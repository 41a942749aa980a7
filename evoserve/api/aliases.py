"""/v1/aliases: names that lead to recipes by weight, their history, and the way back."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from evoserve.api.body import has_body, read_body, read_flag
from evoserve.api.keys import check_admin
from evoserve.api.schemas import Body, ModelName
from evoserve.api.service import service_of
from evoserve.errors import RequestError
from evoserve.lifecycle.split import MAX_TARGETS, MAX_WEIGHT, Target
from evoserve.lifecycle.store import AliasChange

aliases = APIRouter(prefix="/v1/aliases", dependencies=[Depends(check_admin)])


class TargetBody(Body):
    """A recipe (id or plain name) and its share of the requests."""

    recipe: ModelName
    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


class AliasBody(Body):
    """PUT /v1/aliases/NAME: one recipe, or several by weight; retire: unload what was led to."""

    recipe: ModelName | None = None
    targets: Annotated[list[TargetBody], Field(min_length=1, max_length=MAX_TARGETS)] | None = None
    retire: bool = False


class RollbackBody(Body):
    """POST /v1/aliases/NAME/rollback; version: None is the one before the last change."""

    version: Annotated[int, Field(ge=1)] | None = None
    retire: bool = False


@aliases.get("")
async def list_aliases(request: Request) -> Response:
    """Every alias as it is now."""
    changes = service_of(request).lifecycle.aliases.all()
    return JSONResponse({"object": "list", "data": [alias_card(change) for change in changes]})


@aliases.get("/{name:path}")
async def show(request: Request, name: str) -> Response:
    """One alias and its history, the newest version first; a deleted one has history alone."""
    book = service_of(request).lifecycle.aliases
    history = [alias_card(change) for change in reversed(book.history(name))]
    return JSONResponse({**history[0], "history": history})


@aliases.put("/{name:path}")
async def put(request: Request, name: str) -> Response:
    """Load the targets, then move the alias; answers once it has moved, or 202 by `?wait=false`."""
    lifecycle = service_of(request).lifecycle
    body = await read_body(request, AliasBody)
    targets, must_wait = _targets(body), read_flag(request, "wait", True)
    if must_wait:
        change = await lifecycle.set_alias(name, targets, retire=body.retire)
        return JSONResponse(alias_card(change))
    lifecycle.resolve_targets(name, targets)
    lifecycle.start("alias", name, lifecycle.set_alias(name, targets, retire=body.retire))
    return JSONResponse({"id": name, "object": "alias", "state": "changing"}, 202)


@aliases.post("/{name:path}/rollback")
async def rollback(request: Request, name: str) -> Response:
    """Go back to an earlier version; the targets are loaded first if they are not."""
    lifecycle = service_of(request).lifecycle
    body = await read_body(request, RollbackBody) if has_body(request) else RollbackBody()
    change = await lifecycle.rollback(name, body.version, retire=body.retire)
    return JSONResponse(alias_card(change))


@aliases.delete("/{name:path}")
async def delete(request: Request, name: str) -> Response:
    """Remove a name; the recipes stay."""
    return JSONResponse(alias_card(service_of(request).lifecycle.delete_alias(name)))


def alias_card(change: AliasChange) -> dict[str, object]:
    """A state of an alias as the API shows it; `at` is in seconds since 1970."""
    return {
        "id": change.alias,
        "object": "alias",
        "version": change.version,
        "action": change.action,
        "at": round(change.at, 3),
        "targets": [{"recipe": each.model_id, "weight": each.weight} for each in change.targets],
    }


def _targets(body: AliasBody) -> list[Target]:
    if (body.recipe is None) == (body.targets is None):
        message = "Send either 'recipe' or 'targets'."
        raise RequestError(message, param="recipe", code="invalid_value")
    if body.targets is None:
        return [Target(body.recipe or "")]
    return [Target(each.recipe, each.weight) for each in body.targets]
