"""Bodies of requests: read no further than the limit, of the type they say, checked."""

from collections.abc import Collection
from typing import TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from evoserve.api.errors import invalid_body
from evoserve.api.schemas import Body
from evoserve.api.service import service_of
from evoserve.errors import RequestError

JSON = ("application/json",)
# Checking happens in the event loop, and costs about as much for `{}` as for a page of text.
MAX_PARTS = 200_000
MAX_ERRORS = 1000

_Body = TypeVar("_Body", bound=Body)


async def read_body(request: Request, kind: type[_Body]) -> _Body:
    """The checked JSON body. Raises RequestError, and HTTPException 413 and 415."""
    raw = await read_raw(request, JSON)
    _check_parts(raw)
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        count = error.error_count()
        if count > MAX_ERRORS:  # listing them all takes seconds
            message = f"The body of the request has {count} errors, too many to name one."
            raise RequestError(message, code="invalid_value") from None
        raise invalid_body(error) from None


async def read_raw(request: Request, allowed: Collection[str]) -> bytearray:
    """The body's bytes. Raises HTTPException 413 for too many, 415 for another type or encoding."""
    limit = service_of(request).settings.max_body_bytes
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media not in allowed:
        raise HTTPException(415, f"Content-Type '{media:.80}' must be {' or '.join(allowed)}.")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        message = f"Content-Encoding '{encoding:.80}' is not read; send the body as it is."
        raise HTTPException(415, message, headers={"Accept-Encoding": "identity"})
    declared = request.headers.get("content-length", "")
    raw = bytearray()
    if not (declared.isdecimal() and int(declared) > limit):
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > limit:
                break
        else:
            return raw
    raise HTTPException(413, f"The body of the request is larger than {limit} bytes.")


def has_body(request: Request) -> bool:
    """Has the client announced a body?"""
    headers = request.headers
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def read_flag(request: Request, name: str, default: bool) -> bool:
    """A query parameter that is true or false. Raises RequestError for anything else."""
    value = request.query_params.get(name)
    if value is None:
        return default
    if value not in ("true", "false"):
        message = f"Invalid '{name}': must be true or false (got '{value:.40}')."
        raise RequestError(message, param=name, code="invalid_value")
    return value == "true"


def _check_parts(raw: bytearray) -> None:
    """Raises RequestError for more members and items than any real request has.

    What stands in text is counted, too: a text with as many commas fits no context either.
    """
    count = sum(map(raw.count, (b",", b"{", b"[")))
    if count > MAX_PARTS:
        raise RequestError(
            f"The body of the request has {count} commas and opening brackets, the limit is "
            f"{MAX_PARTS}; send less in one request.",
            code="invalid_value",
        )
