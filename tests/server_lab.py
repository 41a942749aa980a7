"""A server of our own in a thread of its own, for tests that talk to it over a socket."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from evoserve.api.registry import Registry, describe
from evoserve.api.server import run, serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.sources.recipe import Recipe

Parts = tuple[TorchEngine, Registry, Lifecycle | None]
START_S, STOP_S = 60, 60


@contextmanager
def in_thread(settings: Settings, make: Callable[[], Awaitable[Parts]]) -> Iterator[int]:
    """The port of a server over what `make` gives, called in the server's loop; then it ends."""
    found: dict[str, Any] = {}
    is_over = threading.Event()

    def on_bound(port: int) -> None:
        found["port"] = port
        is_over.set()

    async def main() -> None:
        found.update(loop=asyncio.get_running_loop(), task=asyncio.current_task())
        engine, registry, lifecycle = await make()
        await serve(settings, engine, registry, lifecycle, on_bound=on_bound)

    def target() -> None:
        try:
            run(main())
        except asyncio.CancelledError:
            pass
        finally:
            is_over.set()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    assert is_over.wait(START_S)
    assert "port" in found, "the server did not start"
    yield found["port"]
    found["loop"].call_soon_threadsafe(found["task"].cancel)
    thread.join(STOP_S)
    assert not thread.is_alive()


async def load_alone(settings: Settings, recipe: Recipe, names: list[str]) -> Parts:
    """An engine with one recipe, served under its own name and `names`, which nobody manages."""
    engine, registry = TorchEngine(settings), Registry()
    registry.add(describe(recipe, await engine.load(recipe)), names)
    return engine, registry, None
