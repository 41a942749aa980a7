"""The page at / in headless Chromium, against a real server over the mini zoo."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from live_server import running
from page_lab import CHROMIUM, MARKUP, RECIPES, hostile_manifest, save_markup_llama

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
if not CHROMIUM.exists():
    pytest.skip(f"there is no Chromium at {CHROMIUM}", allow_module_level=True)

expect = playwright.expect
WAIT_MS = 120_000  # the first load may compile kernels
PHONE = {"width": 360, "height": 740}


@dataclass
class Visit:
    """A browser page, and what it complained of or asked others for."""

    page: "playwright.Page"
    complaints: list[str] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without keys: PS, DFS, both, and a hostile model that never stops."""
    markup = save_markup_llama(folder, tmp_path_factory.mktemp("markup"))
    with running() as found:
        for file in RECIPES.values():
            add(found, json.loads(file.read_text()))
        add(found, hostile_manifest(markup))
        yield found


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A server with an API key and an admin key."""
    with running(api_key="user-key", admin_key="root-key") as found:
        for name in ("dfs", "ties"):
            add(found, json.loads(RECIPES[name].read_text()), "root-key")
        yield found


@pytest.fixture
def visit(browser: "playwright.Browser") -> Iterator[Callable[..., Visit]]:
    """Opens an address in a context of its own; at the end nothing may have been complained of."""
    opened = []

    def open_page(address: str, allowed: tuple[str, ...] = (), **options: object) -> Visit:
        context = browser.new_context(**options)
        found = Visit(context.new_page())
        found.page.set_default_timeout(WAIT_MS)
        found.page.on("console", lambda said: _note(found, said.type, said.text, allowed))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.on("dialog", lambda dialog: found.complaints.append(dialog.message))
        found.page.on("request", lambda sent: found.origins.add(urlsplit(sent.url).netloc))
        found.page.goto(address)
        opened.append((context, found, urlsplit(address).netloc))
        return found

    yield open_page
    for context, found, origin in opened:
        assert found.complaints == []
        assert found.origins <= {origin}
        context.close()


def _note(found: Visit, kind: str, text: str, allowed: tuple[str, ...]) -> None:
    if kind in ("error", "warning") and not any(word in text for word in allowed):
        found.complaints.append(text)


def add(url: str, body: dict[str, object], key: str = "") -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = httpx.post(f"{url}/v1/recipes", json=body, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text


def choose(page: "playwright.Page", side: str, recipe: str) -> None:
    option = page.locator(f"#model-{side} option", has_text=recipe).first
    page.select_option(f"#model-{side}", option.get_attribute("value"))


def send(page: "playwright.Page", text: str, max_tokens: int = 12) -> None:
    if not page.locator("#max_tokens").is_visible():
        page.click("#controls summary")
    page.fill("#max_tokens", str(max_tokens))
    page.fill("#temperature", "0")
    page.fill("#prompt", text)
    page.click("#send")


def card(page: "playwright.Page", name: str) -> "playwright.Locator":
    return page.locator("#recipe-list .card", has=page.get_by_role("link", name=name, exact=True))


def wide_parts(page: "playwright.Page") -> int:
    """Pixels by which the document is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


def test_browsers_get_the_page_and_others_json(url: str) -> None:
    assert httpx.get(f"{url}/").json()["name"] == "evoserve"
    answer = httpx.get(f"{url}/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = {"Accept": "text/html", "If-None-Match": answer.headers["etag"]}
    assert httpx.get(f"{url}/", headers=again).status_code == 304
    for path in ("/ui/none.js", "/ui/..%2Fpage.py", "/ui/%2e%2e/page.py"):
        assert httpx.get(url + path).status_code == 404
    assert httpx.get(f"{url}/ui/app.js").headers["content-type"].startswith("text/javascript")


def test_a_chat_streams_with_its_figures_and_goes_on(visit: Callable, url: str) -> None:
    page = visit(f"{url}/").page
    choose(page, "left", "mini-ties")
    send(page, "12 + 30 = ?")
    answer = page.locator(".turn:not(.user)").first
    expect(answer.locator(".figures")).to_contain_text("tokens", timeout=WAIT_MS)
    expect(answer.locator(".figures")).to_contain_text("first after")
    expect(page.locator("#said")).to_contain_text("mini-ties")
    send(page, "3 + 4 = ?")
    expect(page.locator(".turn.user")).to_have_count(2)
    expect(page.locator(".turn .figures").nth(1)).to_contain_text("tokens", timeout=WAIT_MS)
    page.click("#clear")
    expect(page.locator(".turn")).to_have_count(0)


def test_two_answer_side_by_side(visit: Callable, url: str) -> None:
    page = visit(f"{url}/").page
    page.check("#two")
    choose(page, "left", "mini-ties")
    choose(page, "right", "mini-dfs")
    send(page, "1 + 1 = ?")
    figures = page.locator(".turn:not(.user) .figures")
    expect(figures).to_have_count(2)
    for index, recipe in enumerate(("mini-ties@", "mini-dfs@")):
        expect(figures.nth(index)).to_contain_text("tokens", timeout=WAIT_MS)
        expect(page.locator(".pane").nth(index)).to_contain_text(recipe)


def test_stop_ends_a_stream_and_frees_it(visit: Callable, url: str) -> None:
    page = visit(f"{url}/").page
    choose(page, "left", "endless")
    send(page, "1", max_tokens=700)
    expect(page.locator(".turn[aria-busy] .text")).to_contain_text("<", timeout=WAIT_MS)
    page.keyboard.press("Escape")
    expect(page.locator(".turn .figures")).to_contain_text("stopped")
    expect(page.locator("#send")).to_be_enabled()
    send(page, "2", max_tokens=2)
    expect(page.locator(".turn .figures").nth(1)).to_contain_text("2 tokens", timeout=WAIT_MS)


def test_a_refusal_is_shown(visit: Callable, url: str) -> None:
    page = visit(f"{url}/", ("400",)).page
    choose(page, "left", "mini-ties")
    send(page, "9" * 3000)
    expect(page.locator(".turn .bad")).to_contain_text("context", timeout=WAIT_MS)
    expect(page.locator(".turn .figures")).to_contain_text("failed")


def test_recipes_are_loaded_pinned_unloaded_and_aliased(visit: Callable, url: str) -> None:
    page = visit(f"{url}/#recipes").page
    expect(page.locator("#live-state")).to_have_text("Live.")
    dfs = card(page, "mini-dfs")
    unload = dfs.get_by_role("button", name="Unload")
    if unload.is_visible():
        unload.click()
    load = dfs.get_by_role("button", name="Load mini-dfs", exact=True)
    load.click()
    expect(dfs.locator(".state")).to_have_text("ready", timeout=WAIT_MS)
    expect(dfs).to_contain_text("of weights")
    expect(page.locator("#held")).to_contain_text("weights are held")
    dfs.get_by_role("button", name="Pin").click()
    expect(dfs.locator(".state")).to_have_text("ready, pinned")
    dfs.get_by_role("button", name="Unpin").click()
    dfs.get_by_role("button", name="Alias for").click()
    expect(page.locator("#alias-name")).to_be_focused()
    page.keyboard.type("team/prod")
    page.keyboard.press("Enter")
    alias = page.locator('[data-alias="team/prod"]')
    expect(alias).to_contain_text("mini-dfs@", timeout=WAIT_MS)
    second = page.locator("#alias-second option", has_text="mini-ties").first
    page.select_option("#alias-second", second.get_attribute("value"))
    page.fill("#alias-first-weight", "3")
    page.click("#alias-form button")
    expect(alias).to_contain_text("75%", timeout=WAIT_MS)
    alias.get_by_role("button", name="Roll back").click()
    expect(alias).not_to_contain_text("75%")
    expect(page.locator("#model-left option[value='team/prod']")).to_have_count(1)
    alias.get_by_role("button", name="Remove").click()
    expect(alias).to_have_count(0)
    dfs.get_by_role("button", name="Unload").click()
    expect(dfs.locator(".state")).to_have_text("registered", timeout=WAIT_MS)


def test_changes_by_others_show_up_by_themselves(visit: Callable, url: str) -> None:
    page = visit(f"{url}/#recipes").page
    expect(page.locator("#live-state")).to_have_text("Live.")
    state = card(page, "mini-ps-dfs").locator(".state")
    httpx.post(f"{url}/v1/recipes/mini-ps-dfs/load", timeout=60)
    expect(state).to_have_text("ready", timeout=WAIT_MS)
    httpx.post(f"{url}/v1/recipes/mini-ps-dfs/unload", timeout=60)
    expect(state).to_have_text("registered", timeout=WAIT_MS)


def test_keys_are_asked_for_and_forgotten_with_the_tab(visit: Callable, guarded: str) -> None:
    page = visit(f"{guarded}/", ("401",)).page
    expect(page.locator("#keys")).to_be_visible()
    page.fill("#key-api", "user-key")
    page.keyboard.press("Enter")
    expect(page.locator("#model-left option")).not_to_have_count(0)
    choose(page, "left", "mini-dfs")
    send(page, "1 + 1 = ?")
    expect(page.locator(".turn .figures")).to_contain_text("tokens", timeout=WAIT_MS)
    page.click("nav >> text=Recipes")
    expect(page.locator("#recipes-note")).to_contain_text("admin key")
    expect(page.locator("#recipe-list .card")).to_have_count(0)
    page.click("#keys-open")
    page.fill("#key-admin", "root-key")
    page.click("text=Use these")
    dfs = card(page, "mini-dfs")
    expect(page.locator("#live-state")).to_have_text("Live.")
    dfs.get_by_role("button", name="Unload mini-dfs").click()
    expect(dfs.locator(".state")).to_have_text("registered", timeout=WAIT_MS)
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    other = visit(f"{guarded}/", ("401",)).page
    assert other.evaluate("sessionStorage.length") == 0


def test_pictures_of_ps_and_dfs_recipes(visit: Callable, url: str) -> None:
    page = visit(f"{url}/#recipes").page
    card(page, "mini-dare-ties").get_by_role("link").click()
    expect(page.locator("#recipe-title")).to_be_focused()
    weights = page.get_by_role("img", name="weights")
    expect(weights).to_be_visible()
    expect(page.get_by_role("img", name="densities")).to_be_visible()
    assert "6 layers" in weights.locator("desc").text_content()
    page.locator("figure", has=weights).locator("summary").click()
    table = page.locator("figure", has=weights).locator("table")
    expect(table).to_contain_text("self_attn")
    expect(table).to_contain_text("layers 0 to 1")
    page.goto(f"{url}/#recipes")
    card(page, "mini-dfs").get_by_role("link").click()
    path = page.get_by_role("img", name="Path through the layers")
    expect(path.locator("circle")).to_have_count(8)
    rows = page.locator("figure", has=path).locator("tbody tr")
    page.locator("figure", has=path).locator("summary").click()
    cells = [rows.nth(index).inner_text().split("\t") for index in range(8)]
    assert [row[1:] for row in cells[3:6]] == [
        ["ja", "3", "1"],
        ["math", "3", "0.9"],
        ["ja", "4", "0.95"],
    ]
    expect(page.locator("dl")).to_contain_text("weights_digest")


def test_everything_is_reached_by_the_keyboard(visit: Callable, url: str) -> None:
    page = visit(f"{url}/").page
    expect(page.locator("#model-left option")).not_to_have_count(0)
    seen = []
    for _ in range(11):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", seen[-1]
    order = ["skip", "Chat", "Recipes", "keys-open", "two", "clear", "model-left", "prompt", "send"]
    assert [name for name in seen if name in order][: len(order)] == order
    page.focus("#prompt")
    page.keyboard.type("1 + 2 = ?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn .figures")).to_contain_text("tokens", timeout=WAIT_MS)
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, input, select, textarea, a')]
        .filter(node => !(node.labels?.length || node.textContent.trim() || node.ariaLabel))
        .map(node => node.outerHTML)"""
    )
    assert nameless == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit: Callable, url: str, scheme: str) -> None:
    page = visit(f"{url}/", viewport=PHONE, color_scheme=scheme, has_touch=True).page
    page.check("#two")
    page.click("#controls summary")
    send(page, "x" * 400, max_tokens=4)
    expect(page.locator(".turn .figures").first).to_contain_text("tokens", timeout=WAIT_MS)
    assert wide_parts(page) <= 0
    for view in ("#recipes", "#recipe/mini-dare-ties", "#recipe/mini-dfs"):
        page.goto(f"{url}/{view}")
        expect(page.locator("main section:not([hidden]) h2").first).not_to_be_empty()
        expect(page.locator("main section:not([hidden]) .scroll, .card").first).to_be_attached()
        assert wide_parts(page) <= 0, view
    page.click("#keys-open")
    assert wide_parts(page) <= 0


def test_hostile_names_and_output_stay_text(visit: Callable, url: str) -> None:
    page = visit(f"{url}/#recipe/endless", ("404",)).page
    body = page.locator("#recipe-body")
    for text in MARKUP:
        expect(body.locator(".text")).to_contain_text(text)
        expect(body.locator("dl")).to_contain_text(text)
    assert "\u202e" not in body.locator("section").last.inner_text()
    page.evaluate("location.hash = '#recipe/' + encodeURIComponent('<img src=x onerror=alert(1)>')")
    expect(page.locator("#recipe-title")).to_contain_text(MARKUP[0])
    expect(page.locator("#notice")).to_contain_text("img")
    page.evaluate("location.hash = '#chat'")
    choose(page, "left", "endless")
    send(page, MARKUP[0], max_tokens=8)
    expect(page.locator(".turn .figures")).to_contain_text("8 tokens", timeout=WAIT_MS)
    expect(page.locator(".turn.user .text")).to_have_text(MARKUP[0])
    reply = page.locator(".turn:not(.user) .text").inner_text()
    assert any(text in reply for text in MARKUP)
    assert page.locator("main img, main script, main iframe").count() == 0
