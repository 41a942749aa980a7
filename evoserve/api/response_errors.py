"""Refusals of the chat request that a response is made of, in the words of /v1/responses."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from evoserve.errors import RequestError

_NAMES = (  # of the chat request's fields, here
    (r"^(messages|prompt)\b.*", "input"),
    (r"^max_(completion_)?tokens$", "max_output_tokens"),
    (r"^response_format(\.json_schema)?", "text.format"),
    (r"\.function\.", "."),
)


@contextmanager
def own_words() -> Iterator[None]:
    """Raises `reworded` errors."""
    try:
        yield
    except RequestError as error:
        raise reworded(error) from error


def reworded(error: Exception) -> Exception:
    """An error that names a chat request's field names this endpoint's, in its message, too."""
    if not isinstance(error, RequestError) or error.param is None:
        return error
    param = error.param
    for pattern, name in _NAMES:
        param = re.sub(pattern, name, param)
    message = str(error).replace(f"'{error.param}'", f"'{param}'")
    return RequestError(message, param=param, code=error.code)
