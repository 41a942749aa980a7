"""A real server over a tiny random Llama whose template takes tools, for clients of all kinds."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from byte_model import save_byte_model
from oracle_lab import Oracle
from server_lab import in_thread, load_alone

from evoserve.config import Settings
from evoserve.manifest.load import build_manifest
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

ALIASES = ["gpt-6-astra", "gpt-3.5-turbo-instruct", "gpt-4o-mini", "string"]  # of OpenAI's tests
TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ("user", "assistant", "system", "tool", "fim_prefix", "fim_suffix", "fim_middle")


@dataclass(frozen=True)
class Server:
    """A running server; `folder` is the model's."""

    url: str
    folder: Path

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key="any", max_retries=0, timeout=60)


def save_model(folder: Path) -> Path:
    """With the tokens of Qwen for filling in the middle."""
    special = [f"<|{name}|>" for name in SPECIAL]
    return save_byte_model(folder, TEMPLATE, special, max_position_embeddings=4096)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serves the model as `tiny` and under the names of OpenAI's own tests."""
    folder = save_model(tmp_path_factory.mktemp("client-model"))
    settings = Settings(port=0, threads=1, dtype="float32", kv_cache_bytes=16 * 2**20)
    manifest = build_manifest(
        {
            "format": "evoserve/1",
            "name": "tiny",
            "sources": {"base": {"model": str(folder)}},
            "generation": {"max_tokens": 16},
        }
    )
    recipe = Recipe(manifest, {"base": open_checkpoint(folder)})
    with in_thread(settings, lambda: load_alone(settings, recipe, ALIASES)) as port:
        yield Server(f"http://127.0.0.1:{port}/v1", folder)


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="session")
def oracle(server: Server) -> Oracle:
    """The served model, run by transformers."""
    return Oracle(server.folder)
