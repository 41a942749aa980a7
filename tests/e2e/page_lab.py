"""What the page is tested with: servers over the mini zoo, a watched browser, a model of markup."""

import contextlib
import json
import shutil
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from byte_model import save_byte_model
from live_server import running
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
RECIPES = {
    name: ROOT / "models" / "recipes" / f"mini-{name}.json"
    for name in ("ties", "dfs", "ps-dfs", "dare-ties")
}
CHROMIUM = Path(shutil.which("chromium") or "/usr/bin/chromium")
QUIET = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")
MARKUP = ("<img src=x onerror=alert(1)>", "<script>alert(2)</script>")
WAIT_MS = 60_000  # the first load may compile kernels
PHONE = {"width": 360, "height": 740}
ENDLESS_TOKENS = 30_000  # of the model that never stops: many seconds, whoever else computes
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"


@dataclass
class Visit:
    """A browser page, and what it complained of or asked others for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)


class Proxy(socketserver.ThreadingTCPServer):
    """A way to a server that can be cut while answers come through it."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, url: str) -> None:
        self.far = (urlsplit(url).hostname, urlsplit(url).port)
        self.ends: list[socket.socket] = []
        super().__init__(("127.0.0.1", 0), _Link)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def cut(self) -> None:
        """End every connection in the middle of what it says, and take no other."""
        self.shutdown()
        self.server_close()
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class _Link(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with socket.create_connection(self.server.far) as far:  # type: ignore[attr-defined]
            self.server.ends += [self.request, far]  # type: ignore[attr-defined]
            back = threading.Thread(target=_copy, args=(far, self.request))
            back.start()
            _copy(self.request, far)
            back.join()


def _copy(source: socket.socket, goal: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            goal.sendall(data)
    with contextlib.suppress(OSError):
        goal.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium; without it or playwright the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="drives the page's browser")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without keys: PS, DFS, both, and a hostile model that never stops."""
    markup = _save_markup_llama(tmp_path_factory.mktemp("markup"))
    with running(kv_cache_bytes=2**24) as found:
        for file in RECIPES.values():
            add(found, json.loads(file.read_text()))
        add(found, _hostile_manifest(markup))
        yield found


@pytest.fixture(scope="session")
def guarded() -> Iterator[str]:
    """A server with an API key and an admin key."""
    with running(api_key="user-key", admin_key="root-key") as found:
        for name in ("dfs", "ties"):
            add(found, json.loads(RECIPES[name].read_text()), "root-key")
        yield found


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens an address in a context of its own; at the end nothing may have been complained of."""
    opened = []

    def open_page(
        address: str,
        allowed: tuple[str, ...] = (),
        prepare: Callable[[Any], None] = lambda page: None,
        **options: object,
    ) -> Visit:
        context = browser.new_context(**options)
        found = Visit(context.new_page())
        found.page.set_default_timeout(WAIT_MS)
        found.page.on("console", lambda said: _note(found, said.type, said.text, allowed))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: found.complaints.append(dialog.message))
        found.page.on("request", lambda sent: found.origins.add(urlsplit(sent.url).netloc))
        prepare(found.page)
        found.page.goto(address)
        opened.append((context, found, urlsplit(address).netloc))
        return found

    yield open_page
    for context, found, origin in opened:
        assert found.complaints == []
        assert found.origins <= {origin}
        context.close()


def add(url: str, body: dict[str, object], key: str = "") -> str:
    """Register a manifest; its recipe's id."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = httpx.post(f"{url}/v1/recipes", json=body, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def plain_manifest(name: str, **more: object) -> dict[str, object]:
    """One checkpoint as it is."""
    return {"format": "evoserve/1", "name": name, "sources": {"a": {"model": "mini/base"}}, **more}


def choose(page: Any, side: str, recipe: str) -> None:
    option = page.locator(f"#model-{side} option", has_text=recipe).first
    page.select_option(f"#model-{side}", option.get_attribute("value"))


def send(page: Any, text: str, max_tokens: int = 12) -> None:
    if not page.locator("#max_tokens").is_visible():
        page.click("#controls summary")
    page.fill("#max_tokens", str(max_tokens))
    page.fill("#temperature", "0")
    page.fill("#prompt", text)
    page.click("#send")


def finish(page: Any) -> None:
    """Wait for the answers that are coming."""
    page.wait_for_selector("#stop[aria-disabled='true']", timeout=WAIT_MS)


def chosen(page: Any, side: str) -> str:
    """What the select of a side shows."""
    return str(page.locator(f"#model-{side}").evaluate("each => each.selectedOptions[0].text"))


def card(page: Any, name: str) -> Any:
    return page.locator("#recipe-list .card", has=page.get_by_role("link", name=name, exact=True))


def excess_width(page: Any) -> int:
    """Pixels by which the document is wider than the window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def _note(found: Visit, kind: str, text: str, allowed: tuple[str, ...]) -> None:
    if kind in ("error", "warning") and not any(word in text for word in allowed):
        found.complaints.append(text)


def _save_markup_llama(folder: Path) -> Path:
    """A tiny Llama whose likeliest token is always one of `MARKUP` and never the end.

    All rows of its head are zero but two, which are each other's negative.
    """
    special = ["<|user|>", "<|assistant|>", "<|system|>"]
    save_byte_model(folder, TEMPLATE, special, max_position_embeddings=2**15)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(MARKUP))
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    row = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.weight[-2] = row
        model.lm_head.weight[-1] = -row
    model.save_pretrained(folder)
    return folder


def _hostile_manifest(folder: Path) -> dict[str, object]:
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
