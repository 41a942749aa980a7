"""The page for everyone: axe-core's rules, the keyboard alone, screen readers, zoom, motion."""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_lab import (
    ENDLESS_TOKENS,
    PHONE,
    WAIT_MS,
    card,
    choose,
    excess_width,
    plain_manifest,
    send,
)

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect
DESKTOP = {"width": 1280, "height": 800}
# The rules are fetched, checked and cached; their licence (MPL-2.0) comes with them.
AXE = "axe-core@4.14.1"
AXE_SHA512 = (
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)


@pytest.fixture(scope="module")
def axe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from npm the first time and pytest's cache folder then."""
    file = Path(request.config.cache.mkdir("axe-core")) / f"{AXE}.tgz"
    if not file.exists():
        _fetch_axe(tmp_path_factory.mktemp("npm"), file)
    digest = hashlib.sha512(file.read_bytes()).digest()
    assert base64.b64encode(digest).decode() == AXE_SHA512
    with tarfile.open(file) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


def _fetch_axe(folder: Path, file: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing, which fetches axe-core")
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), AXE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm could not fetch {AXE} in two minutes")
    if done.returncode != 0:
        pytest.skip(f"npm could not fetch {AXE}: {done.stderr[-300:]}")
    os.replace(next(folder.glob("*.tgz")), file)


def violations(page: Any, axe: str) -> list[str]:
    """What breaks a rule, with the elements that do."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(axe)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [
        f"{rule['id']}: {node['html'][:160]} {node['failureSummary']}"
        for rule in found
        for node in rule["nodes"]
    ]


def views(page: Any, site: str) -> Iterator[str]:
    """Bring the page into one state after the other; the name of each."""
    expect(page.locator("#model-left option")).not_to_have_count(0)
    yield "chat, empty"
    page.check("#two")
    choose(page, "left", "mini-ties")
    choose(page, "right", "mini-ties")
    send(page, "1 + 1 = ?", max_tokens=4)
    expect(page.locator(".turn[aria-busy]")).to_have_count(0, timeout=WAIT_MS)
    send(page, "9" * 3000)
    expect(page.locator(".turn .bad")).to_have_count(2)
    choose(page, "left", "mini-dfs")
    yield "chat, compared, refused and begun anew"
    page.click("#keys-open")
    yield "keys"
    page.keyboard.press("Escape")
    page.goto(f"{site}/#recipes")
    page.click("#register summary")
    page.fill("#manifest", "{}")
    page.click("#register-send")
    expect(page.locator("#register-error")).to_be_visible()
    yield "recipes, one refused"
    card(page, "mini-dfs").get_by_role("button", name="Delete").click()
    yield "to be deleted?"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Roll back axe").click()
    expect(page.locator("#question-body li")).to_have_count(2)
    yield "to be rolled back?"
    page.keyboard.press("Escape")
    for name in ("mini-dare-ties", "mini-dfs"):
        page.goto(f"{site}/#recipe/{name}")
        expect(page.locator("#recipe-title")).to_have_text(name)
        for summary in page.locator("#recipe-body summary").all():
            summary.click()
        yield name
    page.goto(f"{site}/#recipe/none")
    expect(page.locator("#notice")).to_be_visible()
    yield "no such recipe"


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_axe_is_broken(
    visit: Callable, site: str, axe: str, scheme: str, size: dict[str, int]
) -> None:
    for recipe in ("mini-ties", "mini-dfs"):
        httpx.put(f"{site}/v1/aliases/axe", json={"recipe": recipe}, timeout=60)
    page = visit(f"{site}/", ("400", "404"), color_scheme=scheme, viewport=size).page
    for view in views(page, site):
        assert violations(page, axe) == [], view
        assert excess_width(page) <= 0, view
    httpx.delete(f"{site}/v1/aliases/axe").raise_for_status()


def test_axe_sees_poor_contrast_and_fields_without_a_name(
    visit: Callable, site: str, axe: str
) -> None:
    page = visit(f"{site}/").page
    page.evaluate(
        "document.querySelector('#prompt-help').style.color = '#bbb';"
        "document.querySelector('label[for=prompt]').remove();"
        "document.querySelector('#prompt').removeAttribute('placeholder')"
    )
    found = {each.partition(":")[0] for each in violations(page, axe)}
    assert {"color-contrast", "label"} <= found


def focused(page: Any) -> str:
    """The focused element's name; it must be seen to be focused."""
    name, outline = page.evaluate(
        "() => { const at = document.activeElement, look = getComputedStyle(at);"
        " return [at.id || at.ariaLabel || at.textContent.trim(),"
        " look.outlineStyle !== 'none' && parseFloat(look.outlineWidth) >= 2]; }"
    )
    assert outline, name
    return str(name)


def tab_to(page: Any, name: str, key: str = "Tab") -> list[str]:
    """Press Tab until `name` is focused; what was passed, `name` included."""
    passed: list[str] = []
    while not passed or passed[-1] != name:
        assert len(passed) < 60, passed
        page.keyboard.press(key)
        passed.append(focused(page))
    return passed


def test_chat_and_comparison_by_the_keyboard_alone(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    expect(page.locator("#model-left option")).not_to_have_count(0)
    assert (
        tab_to(page, "two") == [*("Skip to the content", "Chat", "Recipes", "keys-open", "two")]
        or page.evaluate("document.activeElement.id") == "two"
    )
    page.keyboard.press("Space")
    passed = tab_to(page, "prompt")
    assert [name for name in passed if name.startswith("model")] == ["model-left", "model-right"]
    for side in ("left", "right"):
        choose(page, side, "mini-ties")
    page.keyboard.type("1 + 2 = ?")
    page.keyboard.press("Enter")
    expect(page.locator(".turn .figures")).to_have_count(2)
    expect(page.locator(".turn[aria-busy]")).to_have_count(0, timeout=WAIT_MS)
    assert focused(page) == "prompt"
    page.keyboard.type("again")
    tab_to(page, "send")
    page.keyboard.press("Enter")
    assert focused(page) == "send"
    expect(page.locator(".turn.user")).to_have_count(4)
    expect(page.locator(".turn[aria-busy]")).to_have_count(0, timeout=WAIT_MS)


def test_recipes_and_dialogs_by_the_keyboard_alone(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes").page
    expect(page.locator("#live-state")).to_have_text("Live.")
    tab_to(page, "keys-open")
    page.keyboard.press("Enter")
    expect(page.locator("#keys")).to_be_visible()
    assert focused(page) == "key-api"
    page.keyboard.press("Escape")
    assert focused(page) == "keys-open"
    assert tab_to(page, "Register a recipe") == ["to-aliases", "Register a recipe"]
    page.keyboard.press("Enter")
    assert tab_to(page, "manifest") == ["manifest-file", "manifest"]
    page.keyboard.type(json.dumps(plain_manifest("by-keyboard")))
    tab_to(page, "register-send")
    page.keyboard.press("Enter")
    expect(card(page, "by-keyboard").get_by_role("link")).to_be_focused()
    tab_to(page, "Delete by-keyboard")
    page.keyboard.press("Enter")
    assert focused(page) == "Cancel"
    page.keyboard.press("Escape")
    assert focused(page) == "Delete by-keyboard"
    page.keyboard.press("Enter")
    tab_to(page, "question-do", "Shift+Tab")
    page.keyboard.press("Enter")
    expect(card(page, "by-keyboard")).to_have_count(0)
    expect(page.locator("#recipes-title")).to_be_focused()


def test_an_answer_is_announced_once_and_not_by_the_token(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    choose(page, "left", "endless")
    page.evaluate(
        """() => { window.heard = [];
        const live = '[aria-live], [role=log], [role=status], [role=alert]';
        for (const place of document.querySelectorAll(live)) {
          new MutationObserver((changes) => changes.forEach((change) => {
            const isText = change.type === 'characterData';
            for (const node of isText ? [change.target] : change.addedNodes) {
              heard.push(node.textContent);
            }
          })).observe(place, { childList: true, characterData: true, subtree: true });
        } }"""
    )
    send(page, "1", max_tokens=60)
    expect(page.locator(".turn .figures")).to_contain_text("60 tokens", timeout=WAIT_MS)
    heard = page.evaluate("heard")
    assert len(heard) == 2
    assert heard[0].endswith("is answering.")
    assert page.locator(".turn:not(.user) .text").inner_text()[:200] in heard[1]


def test_motion_stops_for_those_who_want_less(visit: Callable, site: str) -> None:
    for wish, count in (("no-preference", 1), ("reduce", 0)):
        page = visit(f"{site}/", reduced_motion=wish).page
        choose(page, "left", "endless")
        send(page, "1", max_tokens=ENDLESS_TOKENS)
        expect(page.locator(".turn[aria-busy] .text")).to_contain_text("<", timeout=WAIT_MS)
        assert page.evaluate("document.getAnimations().length") == count
        page.keyboard.press("Escape")
        expect(page.locator(".turn .figures")).to_contain_text("stopped")


def test_twice_the_size_needs_no_sideways_scrolling(visit: Callable, site: str) -> None:
    half = {"width": DESKTOP["width"] // 2, "height": DESKTOP["height"] // 2}
    zoomed = visit(f"{site}/", viewport=half, device_scale_factor=2).page
    larger = visit(f"{site}/", viewport=DESKTOP).page
    larger.evaluate("document.documentElement.style.fontSize = '200%'")
    assert larger.evaluate("getComputedStyle(document.querySelector('#prompt')).fontSize") == "32px"
    for page in (zoomed, larger):
        for view in ("#chat", "#recipes", "#recipe/mini-dare-ties", "#recipe/mini-dfs"):
            page.evaluate(f"location.hash = '{view}'")
            expect(
                page.locator(".log:visible, .card:visible, figure:visible").first
            ).to_be_visible()
            assert excess_width(page) <= 0, view
