"""One HTTP/1.1 connection: uvicorn's fast parser, with bounds where it has none."""

import asyncio
import json
from dataclasses import dataclass

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from evoserve.config import Settings

MIN_READ_BYTES = 1024  # that a reader must take in `send_timeout_s` while more is waiting

_TEXTS = {
    400: "400 Bad Request",
    408: "408 Request Timeout",
    503: "503 Service Unavailable",
}


@dataclass(frozen=True)
class WireLimits:
    """What a connection may cost; see the settings of the same names."""

    max_connections: int = 4096
    max_head_bytes: int = 65_536
    receive_timeout_s: float = 60.0
    send_timeout_s: float = 60.0


def bounded_http(settings: Settings) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn, with the limits of `settings`."""

    class Bounded(BoundedHttp):
        limits = WireLimits(
            settings.max_connections,
            settings.max_head_bytes,
            settings.receive_timeout_s,
            settings.send_timeout_s,
        )

    return Bounded


class BoundedHttp(HttpToolsProtocol):
    """Refuses heads without end, requests that never arrive, and readers that take next to nothing.

    Head bytes are counted since the parser last got on: to a body, or to the end of a message.
    """

    limits = WireLimits()
    _num_pending_bytes = 0
    _arrival: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; one too many is told so."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.max_connections:
            self._refuse(503, "Too many connections; try again later.", retry_after_s=1)
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._request_arrived()
        self._unset_stuck()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came from the client."""
        if self.transport.is_closing():
            return
        self._num_pending_bytes += len(data)
        super().data_received(data)
        if self._num_pending_bytes > self.limits.max_head_bytes:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """The parser's: what came is not HTTP. Answered in OpenAI's shape, like all else."""
        self._refuse(400, msg)

    def pause_writing(self) -> None:
        """The transport's: the client takes its answer too slowly."""
        super().pause_writing()
        self._watch_reader(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The transport's: the client has caught up."""
        self._unset_stuck()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's: the connection is idle; what was never read is not waited for."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def on_message_begin(self) -> None:
        """The parser's: a request begins to arrive."""
        super().on_message_begin()
        self._expect_request()

    def on_headers_complete(self) -> None:
        """The parser's: a head has ended. Raises OverflowError, which the parser reports."""
        self._num_pending_bytes = 0
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.max_head_bytes:  # a read may have held all of it
            self._refuse_head()
            raise OverflowError(size)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """The parser's: a part of a body has come."""
        self._num_pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser's: the request has ended."""
        self._num_pending_bytes = 0
        self._request_arrived()
        super().on_message_complete()

    def _expect_request(self) -> None:
        if self._arrival is None:
            self._arrival = self.loop.call_later(self.limits.receive_timeout_s, self._not_arrived)

    def _request_arrived(self) -> None:
        if self._arrival is not None:
            self._arrival.cancel()
            self._arrival = None

    def _not_arrived(self) -> None:
        self._arrival = None
        if self.pipeline:  # it is we who do not read on: an earlier request is being answered
            self._expect_request()
        elif self.cycle is None or self.cycle.response_complete:
            self._refuse(408, f"No request arrived in {self.limits.receive_timeout_s:g} s.")
        else:
            self.transport.close()  # its route is told that the client has left

    def _watch_reader(self, num_unread: int) -> None:
        """Cut the connection if too little has been taken when the time is over."""
        self._unset_stuck()
        self._stuck = self.loop.call_later(
            self.limits.send_timeout_s, self._check_reader, num_unread
        )

    def _check_reader(self, num_before: int) -> None:
        num_unread = self.transport.get_write_buffer_size()
        if num_unread > num_before - MIN_READ_BYTES:
            self.transport.abort()
        else:
            self._watch_reader(num_unread)

    def _unset_stuck(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _refuse_head(self) -> None:
        limit = self.limits.max_head_bytes
        self._refuse(400, f"The request's head is larger than {limit} bytes.")

    def _refuse(self, status: int, message: str, retry_after_s: int | None = None) -> None:
        """Answer without the application, and close."""
        if self.transport.is_closing():
            return
        kind = "server_error" if status == 503 else "invalid_request_error"
        code = {408: "request_timeout", 503: "overloaded"}.get(status)
        error = {"message": message, "type": kind, "param": None, "code": code}
        body = json.dumps({"error": error}).encode()
        retry = "" if retry_after_s is None else f"retry-after: {retry_after_s}\r\n"
        head = (
            f"HTTP/1.1 {_TEXTS[status]}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
