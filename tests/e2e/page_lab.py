"""What the page is tested against: a server over the mini zoo, and a model that writes markup."""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evoserve.api.registry import Registry
from evoserve.api.server import serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.store import StateStore

ROOT = Path(__file__).parents[2]
RECIPES = {
    name: ROOT / "models" / "recipes" / f"mini-{name}.json"
    for name in ("ties", "dfs", "ps-dfs", "dare-ties")
}
CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
MARKUP = ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>")


@contextmanager
def running(**given: object) -> Iterator[str]:
    """The URL of a server in a thread of its own."""
    values = {"port": 0, "threads": 1, "dtype": "float32", "kv_cache_bytes": 2**21, **given}
    settings = Settings(catalogue=ROOT / "models" / "catalogue.toml", **values)  # type: ignore[arg-type]
    found: dict[str, object] = {}
    is_up = threading.Event()

    async def run() -> None:
        engine, registry = TorchEngine(settings), Registry()
        lifecycle = Lifecycle(settings, engine, registry, StateStore(None))
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
    found["loop"].call_soon_threadsafe(found["task"].cancel)  # type: ignore[attr-defined]
    thread.join(60)
    assert not thread.is_alive()


def save_markup_llama(tiny: Path, folder: Path) -> Path:
    """The tiny Llama, whose likeliest token is always one of `MARKUP` and never the end.

    All rows of its head are zero but two, which are each other's negative.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_tokens(list(MARKUP))
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    model.resize_token_embeddings(len(tokenizer))
    row = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[-2] = row
        model.lm_head.weight[-1] = -row
    model.save_pretrained(folder)
    return folder


def hostile_manifest(folder: Path) -> dict[str, object]:
    """A manifest over `folder` whose texts are markup wherever any text may stand."""
    image, script = MARKUP
    return {
        "format": "evoserve/1",
        "name": "endless",
        "description": f"{image}{script}\u202egnihton",
        "license": image,
        "sources": {"base": {"model": str(folder)}},
        "evaluation": [{"task": image, "metric": script, "score": 1.0, "num_items": 1}],
        "provenance": {image: script, "by\u202e": "\u202e\u0007"},
    }
