"""A real server on loopback over a tiny random Llama."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from byte_model import save_byte_model
from page_lab import browser, guarded, site, visit  # noqa: F401 (fixtures of test_page_*.py)
from server_lab import in_thread, load_alone

from evoserve.config import Settings
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
    manifest = build_manifest(
        {"format": "evoserve/1", "name": "tiny", "sources": {"base": {"model": str(folder)}}}
    )
    recipe = Recipe(manifest, {"base": open_checkpoint(folder)})
    with in_thread(settings, lambda: load_alone(settings, recipe, ["alias/one"])) as port:
        yield Live(f"http://127.0.0.1:{port}", port, recipe.model_id, folder)


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
