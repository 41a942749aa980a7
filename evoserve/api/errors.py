"""The one place that turns errors into answers of OpenAI's shape."""

import logging
import math
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from evoserve.api.schemas import ErrorAnswer
from evoserve.errors import (
    CapacityError,
    ConflictError,
    InputError,
    ManifestError,
    RateLimited,
    RequestError,
    UnknownModel,
    UnknownRecipe,
)

RETRY_AFTER_S = 1

_LOG = logging.getLogger("evoserve.api")
_CODES = {
    401: "invalid_api_key",
    413: "request_too_large",
    415: "unsupported_media_type",
}


def status_of(error: Exception) -> int:
    """The HTTP status an error is answered with."""
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, UnknownModel | UnknownRecipe):
        return 404
    if isinstance(error, RateLimited):
        return 429
    if isinstance(error, ConflictError):
        return 409
    if isinstance(error, InputError):
        return 400
    return 503 if isinstance(error, CapacityError) else 500


def error_answer(error: Exception) -> ErrorAnswer:
    """The body: the message of our own errors, nothing of what is inside for any other."""
    status = status_of(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    if isinstance(error, HTTPException):
        return _answer(error.detail, kind, None, _CODES.get(status))
    if isinstance(error, RateLimited):
        return _answer(str(error), error.kind, None, error.code)
    if isinstance(error, RequestError):
        return _answer(str(error), kind, error.param, error.code)
    if isinstance(error, ManifestError):
        return _answer(f"Invalid manifest: {error}", kind, error.where or None, "invalid_manifest")
    if isinstance(error, InputError):
        return _answer(str(error), kind, None, "conflict" if status == 409 else None)
    if isinstance(error, CapacityError):
        return _answer(str(error), kind, None, "overloaded")
    message = "The server had an error while processing your request; its log says more."
    return _answer(message, kind, None, "internal_error")


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """The exception handler of the application."""
    status = status_of(error)
    if status == 500:
        log_internal(error)
    headers: dict[str, str] = {}
    if isinstance(error, HTTPException):
        headers.update(error.headers or {})
        if error.status_code in (404, 405):
            path = request.scope["path"]
            error = HTTPException(status, f"{error.detail}: {request.method} {path:.200}")
        if error.status_code == 405:
            headers["Allow"] = ", ".join(sorted(_allowed_methods(request)))
    if status == 503:
        headers["Retry-After"] = str(_retry_after_s(error))
    if isinstance(error, RateLimited):
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    return JSONResponse(error_answer(error), status, headers)


def log_internal(error: Exception) -> None:
    """Put what clients are not told into the log."""
    _LOG.error("request failed: %s", error, exc_info=error)


def invalid_body(error: ValidationError) -> RequestError:
    """The most telling of pydantic's complaints, its field named as in `messages[0].content`."""
    first = max(error.errors(include_url=False), key=lambda item: len(item["loc"]))
    kind = first["type"]
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "malformed")
        return RequestError(f"The body of the request is not valid JSON: {reason}.")
    param = _param(first["loc"])
    if param is None:
        return RequestError("The body of the request must be a JSON object.", code="invalid_type")
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
        return RequestError(message, param=param, code="missing_required_parameter")
    if kind == "extra_forbidden":
        return RequestError(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    return RequestError(_complaint(param, first), param=param, code=_code(kind))


def _retry_after_s(error: Exception) -> int:
    known = error.retry_after_s if isinstance(error, CapacityError) else None
    return RETRY_AFTER_S if known is None else max(RETRY_AFTER_S, math.ceil(known))


def _allowed_methods(request: Request) -> set[str]:
    """Of all routes that lead to the path; Starlette names those of the first one only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    matching = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return {method for route in matching for method in route.methods or ()}


def _complaint(param: str, detail: ErrorDetails) -> str:
    reason = detail["msg"][:1].lower() + detail["msg"][1:]
    given = detail["input"]
    if isinstance(given, str | int | float | bool) or given is None:
        reason = f"{reason} (got {given!r:.80})"
    return f"Invalid '{param}': {reason}."


def _code(kind: str) -> str:
    if kind == "unsupported":
        return "unsupported_parameter"
    return "invalid_type" if kind.endswith("_type") else "invalid_value"


def _param(location: Sequence[int | str]) -> str | None:
    text = ""
    for part in location:
        if part == "[key]":
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text[:200] or None


def _answer(message: str, kind: str, param: str | None, code: str | None) -> ErrorAnswer:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
