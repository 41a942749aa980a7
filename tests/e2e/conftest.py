"""A real server on loopback over a tiny random Llama."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from byte_model import save_byte_model
from page_lab import browser, guarded, site, visit  # noqa: F401 (fixtures of test_page_*.py)

from evoserve.api.registry import Registry, describe
from evoserve.api.server import run as run_loop
from evoserve.api.server import serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.manifest.load import build_manifest
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Live:
    """A running server; `folder` is the model's."""

    url: str
    port: int
    model_id: str
    folder: Path

    def client(self, key: str = "any") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


def save_tiny_llama(folder: Path) -> Path:
    """Speaks in bytes and four special tokens."""
    special = ["<|user|>", "<|assistant|>", "<|system|>"]
    return save_byte_model(folder, TEMPLATE, special, max_position_embeddings=1024)


def start(folder: Path, settings: Settings) -> Iterator[Live]:
    """Serve a folder from a thread of its own until the generator is resumed."""
    ports: list[int] = []
    is_bound = threading.Event()
    handles: dict[str, object] = {}

    async def main() -> None:
        engine = TorchEngine(settings)
        manifest = build_manifest(
            {"format": "evoserve/1", "name": "tiny", "sources": {"base": {"model": str(folder)}}}
        )
        recipe = Recipe(manifest, {"base": open_checkpoint(folder)})
        registry = Registry()
        registry.add(describe(recipe, await engine.load(recipe)), ["alias/one"])
        handles.update(id=recipe.model_id, loop=asyncio.get_running_loop())
        handles.update(task=asyncio.current_task())

        def on_bound(port: int) -> None:
            ports.append(port)
            is_bound.set()

        await serve(settings, engine, registry, on_bound=on_bound)

    def run() -> None:
        try:
            run_loop(main())
        except asyncio.CancelledError:
            pass
        finally:
            is_bound.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert is_bound.wait(60)
    assert ports, "the server did not start"
    yield Live(f"http://127.0.0.1:{ports[0]}", ports[0], str(handles["id"]), folder)
    handles["loop"].call_soon_threadsafe(handles["task"].cancel)
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def serve_folder() -> Callable[[Path], Iterator[Live]]:
    """Serves any folder as the model `tiny`, for tests with a model of their own."""
    return lambda folder: start(folder, _settings())


@pytest.fixture(scope="session")
def live(folder: Path) -> Iterator[Live]:
    """A server without a key."""
    yield from start(folder, _settings())


@pytest.fixture(scope="session")
def locked(folder: Path) -> Iterator[Live]:
    """A server with a key and a small limit of the body."""
    yield from start(folder, _settings(api_key="secret", max_body_bytes=4096))


def _settings(**given: object) -> Settings:
    values = {
        "port": 0,
        "drain_s": 5.0,
        "threads": 1,
        "dtype": "float32",
        "kv_cache_bytes": 8 * 2**20,
        **given,
    }
    return Settings(**values)  # type: ignore[arg-type]
