"""/v1/recipes: register, look at, load, unload, pin and delete recipes; events as they happen."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from evoserve.api.body import JSON, read_flag, read_raw
from evoserve.api.keys import check_admin
from evoserve.api.service import Service, service_of
from evoserve.api.stream import EventStream
from evoserve.errors import ManifestError
from evoserve.lifecycle.book import Entry, RecipeState
from evoserve.lifecycle.events import Event
from evoserve.manifest.load import parse_manifest

MANIFEST_TYPES = (*JSON, "application/yaml", "application/x-yaml", "text/yaml")
TICK_S = 1.0  # how soon an idle stream of events notices that the server stops
KEEP_ALIVE_TICKS = 15

recipes = APIRouter(prefix="/v1/recipes", dependencies=[Depends(check_admin)])


@recipes.get("")
async def list_recipes(request: Request) -> Response:
    """Every registered recipe, in order of registration."""
    service = service_of(request)
    cards = [recipe_card(service, entry) for entry in service.lifecycle.recipes]
    return JSONResponse({"object": "list", "data": cards})


@recipes.post("")
async def register(request: Request) -> Response:
    """Register a manifest, JSON or YAML; 201 if it is new, 200 if its recipe was there."""
    service = service_of(request)
    raw = await read_raw(request, MANIFEST_TYPES)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(f"it is not UTF-8 text ({error.reason})") from None
    entry, is_new = await service.lifecycle.register(await asyncio.to_thread(parse_manifest, text))
    return JSONResponse(recipe_card(service, entry), 201 if is_new else 200)


@recipes.get("/events")
async def events(request: Request) -> Response:
    """Server-sent events; those after `Last-Event-ID` come first, or `gap` if some are lost."""
    service = service_of(request)
    last = request.headers.get("last-event-id", "")
    return EventStream(_follow(service, last), lambda: None, {})


@recipes.get("/{name}")
async def show(request: Request, name: str) -> Response:
    """One recipe with its manifest."""
    service = service_of(request)
    entry = service.lifecycle.recipes.get(name)
    manifest = json.loads(entry.stored.manifest)
    return JSONResponse({**recipe_card(service, entry), "manifest": manifest})


@recipes.delete("/{name}")
async def delete(request: Request, name: str) -> Response:
    """Unload and forget a recipe; 409 while an alias leads to it."""
    service = service_of(request)
    model_id = service.lifecycle.recipes.get(name).model_id
    await service.lifecycle.delete(model_id)
    return JSONResponse({"id": model_id, "object": "recipe", "deleted": True})


@recipes.post("/{name}/load")
async def load(request: Request, name: str) -> Response:
    """Build a recipe; answers when it is ready, or at once (202) with `?wait=false`."""
    service = service_of(request)
    lifecycle = service.lifecycle
    entry = lifecycle.recipes.get(name)
    if read_flag(request, "wait", True):
        await lifecycle.load(entry.model_id)
        return JSONResponse(recipe_card(service, entry))
    lifecycle.start("recipe", entry.model_id, lifecycle.load(entry.model_id))
    await asyncio.sleep(0)  # so that the answer shows the state it has started
    return JSONResponse(recipe_card(service, entry), 202)


@recipes.post("/{name}/unload")
async def unload(request: Request, name: str) -> Response:
    """Free a recipe's memory, `?drain=false` without waiting for its requests to end."""
    service = service_of(request)
    entry = await service.lifecycle.unload(name, drain=read_flag(request, "drain", True))
    return JSONResponse(recipe_card(service, entry))


@recipes.post("/{name}/pin")
async def pin(request: Request, name: str) -> Response:
    """Never unload a recipe to make room."""
    service = service_of(request)
    return JSONResponse(recipe_card(service, service.lifecycle.pin(name)))


@recipes.post("/{name}/unpin")
async def unpin(request: Request, name: str) -> Response:
    """The opposite of pinning."""
    service = service_of(request)
    return JSONResponse(recipe_card(service, service.lifecycle.pin(name, is_pinned=False)))


def recipe_card(service: Service, entry: Entry) -> dict[str, object]:
    """A recipe as the API shows it; times in seconds since 1970, sizes in bytes."""
    names = service.lifecycle.recipes.names()
    return {
        "id": entry.model_id,
        "object": "recipe",
        "name": entry.manifest.name,
        "is_current": names.get(entry.manifest.name) == entry.model_id,
        "state": str(entry.state),
        "reason": entry.reason,
        "pinned": entry.stored.is_pinned,
        "aliases": service.lifecycle.aliases.leading_to(entry.model_id),
        "origin": entry.stored.origin,
        "created": entry.stored.created,
        "last_used": round(time.time() - (time.monotonic() - entry.last_used)),
        "progress": _progress(entry),
        "needs": _needs(entry),
        "loaded": _loaded(entry),
        "warnings": list(entry.warnings),
    }


def _progress(entry: Entry) -> dict[str, object] | None:
    progress = entry.progress
    if progress is None or entry.state is not RecipeState.BUILDING:
        return None
    return {
        "read_bytes": progress.read_bytes,
        "total_bytes": progress.total_bytes,
        "elapsed_s": round(time.monotonic() - progress.start_s, 3),
    }


def _needs(entry: Entry) -> dict[str, int] | None:
    footprint = entry.footprint
    if footprint is None:
        return None
    return {
        "weight_bytes": footprint.weight_bytes,
        "kv_cache_bytes": footprint.kv_cache_bytes,
        "max_model_len": footprint.max_model_len,
    }


def _loaded(entry: Entry) -> dict[str, object] | None:
    if entry.info is None or not entry.is_loaded:
        return None
    return {key: value for key, value in vars(entry.info).items() if key != "model_id"}


async def _follow(service: Service, last: str) -> AsyncIterator[bytes]:
    """Events until the server stops or the reader falls too far behind."""
    log = service.lifecycle.events
    is_gap, start = log.is_gap(last), log.start
    with log.follow(log.place(last)) as queue:
        yield b": hello\n\n"
        if is_gap:
            yield f'id: {start}\nevent: gap\ndata: {{"gap":true}}\n\n'.encode()
        num_idle = 0
        while not service.is_draining():
            try:
                async with asyncio.timeout(TICK_S):
                    event = await queue.get()
            except TimeoutError:
                num_idle += 1
                if num_idle % KEEP_ALIVE_TICKS == 0:
                    yield b": keep-alive\n\n"
                continue
            if event is None:
                return
            yield _spell(event, log.id_of(event))


def _spell(event: Event, event_id: str) -> bytes:
    body = {"at": round(event.at, 3), event.kind: event.subject, **event.data}
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    lines = f"id: {event_id}\nevent: {event.kind}\ndata: {text}\n\n"
    return lines.encode(errors="replace")  # a file name may hold lone surrogates
