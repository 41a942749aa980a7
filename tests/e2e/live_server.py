"""A server over the mini zoo's catalogue, in a thread of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server_lab import Parts, in_thread

from evoserve.api.registry import Registry
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.store import StateStore

ROOT = Path(__file__).parents[2]


@contextmanager
def running(store: Path | None = None, **given: object) -> Iterator[str]:
    """The URL of a server whose recipes are managed and remembered in `store`."""
    values = {"port": 0, "drain_s": 5.0, "threads": 1, "dtype": "float32", **given}
    values.setdefault("kv_cache_bytes", 2**21)
    settings = Settings(catalogue=ROOT / "models" / "catalogue.toml", **values)  # type: ignore[arg-type]

    async def make() -> Parts:
        engine, registry = TorchEngine(settings), Registry()
        lifecycle = Lifecycle(settings, engine, registry, StateStore(store))
        await lifecycle.restore()
        return engine, registry, lifecycle

    with in_thread(settings, make) as port:
        yield f"http://127.0.0.1:{port}"
