"""Every route of OpenAI's API, probes and metrics: read the body, call one function, answer."""

import math

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from evoserve import __version__
from evoserve.api.body import read_body
from evoserve.api.chat import CHAT, prepare_chat
from evoserve.api.completions import COMPLETION, prepare_completion
from evoserve.api.keys import check_key, check_rate, check_scraper
from evoserve.api.models import detokenize, list_models, model_card, tokenize
from evoserve.api.page import page_file, wants_page
from evoserve.api.response_schemas import ResponsesBody
from evoserve.api.responses import prepare_response, respond_response
from evoserve.api.schemas import (
    ChatBody,
    CompletionBody,
    DetokenizeBody,
    SamplingBody,
    TokenizeBody,
)
from evoserve.api.service import service_of
from evoserve.api.stream import respond
from evoserve.lifecycle.served import ServedRecipe

STICKY = "x-evoserve-sticky"

openai = APIRouter(dependencies=[Depends(check_key), Depends(check_rate)])
public = APIRouter()


@openai.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions."""
    service = service_of(request)
    body = await read_body(request, ChatBody)
    async with service.lifecycle.hold(body.model, _sticky(request, body)) as served:
        call = await prepare_chat(service, body, served)
        return await respond(request, call, body, CHAT)


@openai.post("/v1/completions")
async def completions(request: Request) -> Response:
    """OpenAI's completions."""
    service = service_of(request)
    body = await read_body(request, CompletionBody)
    async with service.lifecycle.hold(body.model, _sticky(request, body)) as served:
        call = await prepare_completion(service, body, served)
        return await respond(request, call, body, COMPLETION)


@openai.post("/v1/responses")
async def responses(request: Request) -> Response:
    """OpenAI's responses, without a memory."""
    service = service_of(request)
    body = await read_body(request, ResponsesBody)
    async with service.lifecycle.hold(body.model, _sticky(request, body)) as served:
        call = await prepare_response(request, body, served)
        return await respond_response(request, call, body)


@openai.get("/v1/models")
async def models(request: Request) -> Response:
    """Every name a request may send."""
    return JSONResponse(list_models(service_of(request).lifecycle))


@openai.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """One of them."""
    lifecycle = service_of(request).lifecycle
    named = lifecycle.names().get(name)
    if named is None:
        raise lifecycle.unknown(name)
    return JSONResponse(model_card(name, named))


@openai.post("/tokenize")
async def tokenize_text(request: Request) -> Response:
    """Text or messages to token ids."""
    body = await read_body(request, TokenizeBody)
    async with service_of(request).lifecycle.hold(body.model, _sticky(request)) as served:
        return JSONResponse(await tokenize(served, body), headers=_recipe_header(served))


@openai.post("/detokenize")
async def detokenize_tokens(request: Request) -> Response:
    """Token ids to text."""
    body = await read_body(request, DetokenizeBody)
    async with service_of(request).lifecycle.hold(body.model, _sticky(request)) as served:
        return JSONResponse(detokenize(served, body), headers=_recipe_header(served))


@public.head("/live", include_in_schema=False)
@public.get("/live")
async def live(request: Request) -> Response:
    """200 while the engine's thread gets on; 503 once it is gone or stuck in one step."""
    return Response(status_code=503 if service_of(request).is_stalled() else 200)


@public.head("/health", include_in_schema=False)
@public.get("/health")
async def health(request: Request) -> Response:
    """200 unless the engine's thread is gone, which only a restart cures."""
    is_alive = math.isfinite(service_of(request).engine.stats().stalled_s)
    return Response(status_code=200 if is_alive else 503)


@public.head("/ready", include_in_schema=False)
@public.get("/ready")
async def ready(request: Request) -> Response:
    """200 while the server wants requests, else 503."""
    status = service_of(request).status()
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


@public.get("/version")
async def version() -> Response:
    """The version of the server."""
    return JSONResponse({"version": __version__})


@public.get("/openapi.json", dependencies=[Depends(check_key)])
async def document(request: Request) -> Response:
    """This document."""
    return JSONResponse(request.app.openapi())


@public.get("/metrics", dependencies=[Depends(check_scraper)])
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    exposition = service_of(request).metrics.exposition()
    return Response(exposition, media_type=CONTENT_TYPE_LATEST)


@public.head("/", include_in_schema=False)
@public.get("/")
async def index(request: Request) -> Response:
    """The page for browsers; where to go from here for other clients."""
    if wants_page(request):
        return page_file(request)
    where = {"name": "evoserve", "version": __version__, "models": "/v1/models"}
    return JSONResponse(where, headers={"Vary": "Accept"})


@public.get("/ui/{name}")
async def page(request: Request, name: str) -> Response:
    """What the page is made of."""
    return page_file(request, name)


def _sticky(request: Request, body: SamplingBody | ResponsesBody | None = None) -> str | None:
    """What keeps a client on one of an alias's recipes: the header, else the body's `user`."""
    user = None if body is None else body.user
    return request.headers.get(STICKY) or user or None


def _recipe_header(served: ServedRecipe) -> dict[str, str]:
    return {"x-evoserve-recipe": served.model_id}
