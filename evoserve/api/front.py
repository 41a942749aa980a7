"""Around every route: an id, refusal while draining, errors, a log line, metrics, a trace."""

import asyncio
from collections.abc import Awaitable

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evoserve.api.drain import STOPPING
from evoserve.api.errors import answer_error, log_internal
from evoserve.api.logs import PROBES, log_request
from evoserve.api.record import RequestRecord, choose_request_id, start_record
from evoserve.api.service import Service
from evoserve.api.stream import CLIENT_CLOSED_REQUEST
from evoserve.errors import CapacityError

REQUEST_ID = "x-request-id"


class Front:
    """ASGI middleware, outermost, so that nothing is answered without it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        """Around `app`; every open request counts in the service's drain."""
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and tell of it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = start_record(choose_request_id(headers.get(REQUEST_ID)))
        tracing = self._service.tracing
        if tracing is not None and scope["path"] not in PROBES:
            record.trace = tracing.start(headers, record.id)
        reply = _Reply(send, record, self._service)
        self._service.drain.enter()
        try:
            await self._serve(scope, receive, reply)
        finally:
            self._service.drain.leave()
            self._tell(scope, record, reply.status or CLIENT_CLOSED_REQUEST)

    async def _serve(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        try:
            if self._service.is_draining() and scope["path"] not in PROBES:
                raise CapacityError(STOPPING)
            await self._app(scope, receive, reply.send)
        except ClientDisconnect:
            reply.status = CLIENT_CLOSED_REQUEST
        except Exception as error:
            if reply.status is not None:  # too late to tell the client: the connection is cut
                log_internal(error)
                raise
            await _answer(error, scope, receive, reply)
        except asyncio.CancelledError:
            if not self._service.is_draining():
                raise
            if reply.status is None:  # the server gives up waiting for the answer
                await _answer(CapacityError(STOPPING), scope, receive, reply)

    def _tell(self, scope: Scope, record: RequestRecord, status: int) -> None:
        route = scope.get("route")
        record.route = getattr(route, "path", record.route)
        method = scope["method"]
        self._service.metrics.http.count(record.route, method, status, record.elapsed_s)
        log_request(record, method, status)
        if record.trace is not None:
            record.trace.end(record, method, status)


async def _answer(error: Exception, scope: Scope, receive: Receive, reply: "_Reply") -> None:
    answer = await answer_error(Request(scope), error)
    await answer(scope, receive, reply.send)


class _Reply:
    """The way out: notes the status and adds headers to the first message; status None: not yet."""

    def __init__(self, send: Send, record: RequestRecord, service: Service) -> None:
        self._send = send
        self._record = record
        self._service = service
        self.status: int | None = None

    def send(self, message: Message) -> Awaitable[None]:
        """No coroutine of its own: there is a message for each event of a stream."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers[REQUEST_ID] = self._record.id
            for name, value in self._record.headers.items():
                headers[name] = value
            if self._service.is_draining():
                headers["Connection"] = "close"
        return self._send(message)
