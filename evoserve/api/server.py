"""Runs the application under uvicorn until it is told to stop, then lets requests end."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from evoserve.api.app import create_app
from evoserve.api.registry import Registry
from evoserve.config import Settings
from evoserve.engine.protocol import Engine
from evoserve.errors import ConfigError

DRAIN_S = 30
KEEP_ALIVE_S = 75  # longer than clients keep idle connections, so that they close first
BACKLOG = 2048


async def serve(
    settings: Settings,
    engine: Engine,
    registry: Registry,
    *,
    sock: socket.socket | None = None,
    on_bound: Callable[[int], None] | None = None,
    drain_s: int = DRAIN_S,
) -> None:
    """Serve until SIGTERM or SIGINT, wait up to `drain_s` seconds for requests, close the engine.

    `sock` is a bound socket to use instead of the settings' host and port; `on_bound` is told the
    port as soon as connections are queued. Returns normally after a signal; being cancelled drains
    as well. Recipes may be loaded before or while it runs. Raises ConfigError if it cannot listen.
    """
    listener = sock or _listen(settings.host, settings.port)
    app = create_app(settings, engine, registry, is_draining=lambda: server.should_exit)
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
        server_header=False,
        lifespan="on",
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=drain_s,
    )
    server = uvicorn.Server(config)
    if on_bound is not None:
        on_bound(listener.getsockname()[1])
    with _signals_absorbed():
        running = asyncio.ensure_future(server.serve(sockets=[listener]))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            server.should_exit = True
            await running
            raise


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None


@contextmanager
def _signals_absorbed() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more; without a handler that would kill us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
