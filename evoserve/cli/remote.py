"""A running server as the command line talks to it: JSON over HTTP, errors made into ours."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from evoserve.errors import ConfigError, EngineError, RequestError

Json = dict[str, Any]


@dataclass(frozen=True)
class Remote:
    """The server at `url`; `key` is its admin key, or its API key where it has no admin key."""

    url: str
    key: str | None = None

    def ask(
        self, method: str, path: str, body: object = None, *, raw: tuple[bytes, str] | None = None
    ) -> Json:
        """One request; `raw` is a body and its media type.

        Raises RequestError for what the server refuses, EngineError for what it fails at, and
        ConfigError if nobody answers, or somebody else.
        """
        content, media = raw or (json.dumps(body).encode() if body is not None else None, None)
        with self._open(method, path, content, media or "application/json") as answer:
            with self._understood():
                found: Json = json.loads(answer.read())
            return found

    def events(self, path: str) -> Iterator[Json]:
        """The data of server-sent events as they come, until the server ends.

        Raises ConfigError if what comes is something else.
        """
        with self._open("GET", path, None, None) as answer, self._understood():
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])

    def _open(self, method: str, path: str, content: bytes | None, media: str | None) -> Any:
        headers = {} if content is None or media is None else {"Content-Type": media}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.url.rstrip("/") + path
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--url '{self.url}' must begin with http:// or https://")
        try:
            request = urllib.request.Request(url, content, headers, method=method)
            return urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None
        except (urllib.error.URLError, OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise ConfigError(f"no server answers at {self.url}: {reason}; see --url") from None
        except ValueError as error:
            raise ConfigError(f"--url or --api-key cannot be sent: {error}") from None

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except ValueError:
            message = f"what answers at {self.url} is no EvoServe server; see --url"
            raise ConfigError(message) from None
        except (OSError, HTTPException):
            raise ConfigError(f"the server at {self.url} has broken off") from None


def in_path(name: str) -> str:
    """A name as a part of a URL's path."""
    return quote(name, safe="/@")


def _refusal(error: urllib.error.HTTPError) -> RequestError | EngineError:
    """The server's own words."""
    try:
        message = json.loads(error.read())["error"]["message"]
    except (ValueError, KeyError, TypeError, OSError):
        message = f"HTTP {error.code}"
    return EngineError(message) if error.code >= 500 else RequestError(message)
