"""Runs the application under uvicorn until it is told to stop, then lets requests end."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from evoserve.api.app import create_app
from evoserve.api.connection import bounded_http
from evoserve.api.drain import Drain
from evoserve.api.registry import Registry
from evoserve.config import Settings
from evoserve.engine.protocol import Engine
from evoserve.errors import ConfigError
from evoserve.lifecycle.lifecycle import Lifecycle

KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close first
BACKLOG = 2048
FLUSH_S = 2  # for the last words to requests that are cut off, and for the last bytes of answers
# How long the engine's thread waits for the interpreter while the event loop is busy. Beside 32
# streams the slowest tenth of its wake-ups came up to 0.8 ms late with Python's 5 ms, up to 0.5 ms
# late with this, at the same cost per token.
SWITCH_INTERVAL_S = 0.0002

_LOG = logging.getLogger(__name__)


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that awaits `serve` in the event loop that costs least: uvloop's."""
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        runner.run(serving)


async def serve(
    settings: Settings,
    engine: Engine,
    registry: Registry,
    lifecycle: Lifecycle | None = None,
    *,
    on_bound: Callable[[int], None] | None = None,
    beside: Callable[[int], Awaitable[None]] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, let requests end within `drain_s`, close the engine.

    `lifecycle` manages `registry`, None is one that remembers nothing; `on_bound` is told the
    port as soon as connections are queued. `beside` is told it, too, and is awaited while the
    server runs: it is cancelled when that is to stop, and what it raises stops the server and is
    raised here. Returns normally after a signal; being cancelled drains as well. Recipes may be
    loaded before or while it runs. Raises ConfigError if it cannot listen.
    """
    listener = _listen(settings.host, settings.port)
    drain = Drain()
    app = create_app(settings, engine, registry, lifecycle, drain=drain)
    config = uvicorn.Config(
        app,
        http=bounded_http(settings),
        ws="none",
        log_config=None,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=FLUSH_S,
    )
    server = DrainingServer(config, drain, settings.drain_s)
    port = listener.getsockname()[1]
    if on_bound is not None:
        on_bound(port)
    with _quick_switches():
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        working = asyncio.ensure_future(_until_drained(drain, beside, port))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            drain.begin()
            await running
            raise
        finally:
            drain.begin()
            await asyncio.wait({working})
        working.result()


class DrainingServer(uvicorn.Server):
    """Told to stop, it goes on listening, to refuse, until its requests have ended or time is up.

    So clients and load balancers get 503 with Retry-After, not a refused connection, and probes
    see what is going on. A second signal ends the process at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, drain_s: float) -> None:
        """Does not listen yet."""
        super().__init__(config)
        self._drain = drain
        self._drain_s = drain_s

    async def main_loop(self) -> None:
        """uvicorn's: until it is time to stop."""
        draining = asyncio.create_task(self._run_drain())
        try:
            await super().main_loop()
        finally:
            draining.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler; not run inside of the event loop, although in its thread."""
        del frame
        if self._drain.has_begun():
            os._exit(128 + sig)
        self._drain.begin()

    async def _run_drain(self) -> None:
        await self._drain.wait_begun()
        _LOG.info("stopping; %d requests are open", self._drain.num_open)
        if not await self._drain.wait_idle(self._drain_s):
            _LOG.warning("%d requests are cut off", self._drain.num_open)
            self._drain.cut()
            if not await self._drain.wait_idle(FLUSH_S):
                self.config.timeout_graceful_shutdown = 0
        self.should_exit = True


async def _until_drained(
    drain: Drain, beside: Callable[[int], Awaitable[None]] | None, port: int
) -> None:
    """Do what is to be done beside serving until the drain begins; if it fails, that begins it."""
    if beside is None:
        return
    working = asyncio.ensure_future(beside(port))
    stopping = asyncio.ensure_future(drain.wait_begun())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    except BaseException:
        drain.begin()
        raise
    finally:
        working.cancel()
        stopping.cancel()
        await asyncio.wait({working})


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


@contextmanager
def _quick_switches() -> Iterator[None]:
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)
