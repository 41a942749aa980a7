"""A server over the mini zoo's catalogue, in a thread of its own."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evoserve.api.registry import Registry
from evoserve.api.server import serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.store import StateStore

ROOT = Path(__file__).parents[2]


@contextmanager
def running(store: Path | None = None, **given: object) -> Iterator[str]:
    """The URL of a server in a thread of its own."""
    values = {"port": 0, "drain_s": 5.0, "threads": 1, "dtype": "float32", **given}
    values.setdefault("kv_cache_bytes", 2**21)
    settings = Settings(catalogue=ROOT / "models" / "catalogue.toml", **values)  # type: ignore[arg-type]
    found: dict[str, object] = {}
    is_up = threading.Event()

    async def run() -> None:
        engine, registry = TorchEngine(settings), Registry()
        lifecycle = Lifecycle(settings, engine, registry, StateStore(store))
        await lifecycle.restore()
        found.update(loop=asyncio.get_running_loop(), task=asyncio.current_task())

        def on_bound(port: int) -> None:
            found["port"] = port
            is_up.set()

        await serve(settings, engine, registry, lifecycle, on_bound=on_bound)

    def target() -> None:
        try:
            asyncio.run(run())
        except asyncio.CancelledError:
            pass
        finally:
            is_up.set()

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    assert is_up.wait(60)
    yield f"http://127.0.0.1:{found['port']}"
    found["loop"].call_soon_threadsafe(found["task"].cancel)
    thread.join(60)
    assert not thread.is_alive()
