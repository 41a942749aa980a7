"""A lifecycle over the real engine and the mini zoo, whose recipes build in milliseconds."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from evoserve.api.registry import Registry
from evoserve.config import Settings
from evoserve.engine.protocol import GenerationRequest, SamplingParams
from evoserve.engine.torch_engine import TorchEngine
from evoserve.lifecycle.events import Event
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.store import StateStore
from evoserve.manifest.load import build_manifest, load_manifest
from evoserve.manifest.schema import Manifest

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "models" / "recipes"
KV_BYTES = 2**20


@dataclass(frozen=True)
class Lab:
    """The parts under test, all real."""

    settings: Settings
    engine: TorchEngine
    registry: Registry
    lifecycle: Lifecycle

    async def register(self, *names: str) -> list[str]:
        """Register shipped recipes; their ids."""
        entries = [await self.lifecycle.register(recipe(name)) for name in names]
        return [entry.model_id for entry, _ in entries]

    def ready(self) -> list[str]:
        """Plain names of the recipes that are ready."""
        return [e.manifest.name for e in self.lifecycle.recipes if e.state == "ready"]

    async def generate(self, model_id: str, count: int = 4) -> list[int]:
        """Greedy tokens of a loaded recipe."""
        params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
        request = GenerationRequest(f"r{id(params)}", model_id, [1, 2, 3], params)
        return [e.token_id async for e in self.engine.submit(request) if e.token_id is not None]

    async def ask(self, name: str, sticky: str | None = None) -> str:
        """The id of the recipe that a request for `name` gets, and uses."""
        async with self.lifecycle.hold(name, sticky) as served:
            await self.generate(served.model_id, 1)
            return served.model_id


def recipe(name: str, **changes: object) -> Manifest:
    """A recipe that ships with the mini zoo, by its name without `mini-`."""
    manifest = load_manifest(RECIPES / f"mini-{name}.json")
    if not changes:
        return manifest
    return build_manifest({**json.loads((RECIPES / f"mini-{name}.json").read_text()), **changes})


@asynccontextmanager
async def open_lab(store: StateStore | None = None, **given: object) -> AsyncIterator[Lab]:
    values = {"threads": 1, "dtype": "float32", "kv_cache_bytes": KV_BYTES, **given}
    settings = Settings(catalogue=ROOT / "models" / "catalogue.toml", **values)
    engine, registry = TorchEngine(settings), Registry()
    lifecycle = Lifecycle(settings, engine, registry, store)
    try:
        yield Lab(settings, engine, registry, lifecycle)
    finally:
        await lifecycle.close()
        await engine.close()


@pytest.fixture
def lab() -> Callable[..., AbstractAsyncContextManager[Lab]]:
    """`async with lab(memory_bytes=...) as parts`."""
    return open_lab


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """A shipped recipe by its name without `mini-`, with fields changed."""
    return recipe


@pytest.fixture
def follow() -> Callable[[Lifecycle], AbstractAsyncContextManager[list[Event]]]:
    """The events of a block, in order."""

    @asynccontextmanager
    async def record(lifecycle: Lifecycle) -> AsyncIterator[list[Event]]:
        events: list[Event] = []
        with lifecycle.events.follow() as queue:
            yield events
            await asyncio.sleep(0)
            while not queue.empty():
                event = queue.get_nowait()
                assert event is not None
                events.append(event)

    return record


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """To be watched."""
    made = tmp_path / "recipes"
    made.mkdir()
    return made
