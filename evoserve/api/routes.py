"""Every route: read the body, call the one function that does the work, answer."""

import hmac
import math
from typing import TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from evoserve import __version__
from evoserve.api.chat import CHAT, prepare_chat
from evoserve.api.completions import COMPLETION, prepare_completion
from evoserve.api.errors import invalid_body
from evoserve.api.models import detokenize, list_models, model_card, tokenize
from evoserve.api.schemas import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from evoserve.api.service import service_of
from evoserve.api.stream import respond

_Body = TypeVar("_Body", bound=Body)


async def check_key(request: Request) -> None:
    """Raises HTTPException 401 unless the bearer token is the configured key, if one is."""
    key = service_of(request).settings.api_key
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Headers are bytes that were read as Latin-1; comparing bytes keeps the time constant.
    is_right = hmac.compare_digest(given.strip().encode("latin-1"), key.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise HTTPException(
            401,
            "Incorrect API key provided; send 'Authorization: Bearer KEY'.",
            headers={"WWW-Authenticate": "Bearer"},
        )


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The body, read no further than the limit and checked. Raises RequestError, HTTPException."""
    limit = service_of(request).settings.max_body_bytes
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise HTTPException(415, f"Content-Type '{media:.80}' must be application/json.")
    declared = request.headers.get("content-length", "")
    raw = bytearray()
    if not (declared.isdecimal() and int(declared) > limit):
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > limit:
                break
        else:
            return _validate(kind, raw)
    raise HTTPException(413, f"The body of the request is larger than {limit} bytes.")


def _validate(kind: type[_Body], raw: bytearray) -> _Body:
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise invalid_body(error) from None


openai = APIRouter(dependencies=[Depends(check_key)])
public = APIRouter()


@openai.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completions."""
    body = await read_body(request, ChatBody)
    return await respond(request, await prepare_chat(service_of(request), body), body, CHAT)


@openai.post("/v1/completions")
async def completions(request: Request) -> Response:
    """OpenAI's completions."""
    body = await read_body(request, CompletionBody)
    call = await prepare_completion(service_of(request), body)
    return await respond(request, call, body, COMPLETION)


@openai.get("/v1/models")
async def models(request: Request) -> Response:
    """Every name a request may send."""
    return JSONResponse(list_models(service_of(request).registry))


@openai.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """One of them."""
    return JSONResponse(model_card(name, service_of(request).registry.resolve(name)))


@openai.post("/tokenize")
async def tokenize_text(request: Request) -> Response:
    """Text or messages to token ids."""
    body = await read_body(request, TokenizeBody)
    return JSONResponse(await tokenize(service_of(request).registry, body))


@openai.post("/detokenize")
async def detokenize_tokens(request: Request) -> Response:
    """Token ids to text."""
    body = await read_body(request, DetokenizeBody)
    return JSONResponse(detokenize(service_of(request).registry, body))


@public.get("/health")
async def health(request: Request) -> Response:
    """200 unless the engine's thread is gone, which only a restart cures."""
    is_alive = math.isfinite(service_of(request).engine.stats().stalled_s)
    return Response(status_code=200 if is_alive else 503)


@public.get("/ready")
async def ready(request: Request) -> Response:
    """200 while requests can be served, else 503."""
    service = service_of(request)
    status = "ready" if service.engine.models() else "loading"
    if service.is_draining():
        status = "draining"
    return JSONResponse({"status": status}, 200 if status == "ready" else 503)


@public.get("/version")
async def version() -> Response:
    """The version of the server."""
    return JSONResponse({"version": __version__})


@public.get("/metrics")
async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    exposition = service_of(request).metrics.exposition()
    return Response(exposition, media_type=CONTENT_TYPE_LATEST)


@public.get("/")
async def index() -> Response:
    """Where to go from here."""
    return JSONResponse({"name": "evoserve", "version": __version__, "models": "/v1/models"})
