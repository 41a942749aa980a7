"""The page on a server with keys: asked for, kept for the tab, and never asked for twice."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from page_lab import WAIT_MS, card, choose, plain_manifest, send

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect
LISTS = re.compile(r"/v1/(models|recipes|aliases)$")


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
    expect(page.locator("#keys-why")).to_have_text("An admin key is needed.")
    page.keyboard.press("Escape")
    expect(page.locator("#recipes-note")).to_contain_text("An admin key is needed.")
    expect(page.locator("#recipe-list .card")).to_have_count(0)
    page.click("nav >> text=Chat")
    with page.expect_response(lambda answer: answer.url.endswith("/v1/recipes")):
        page.click("nav >> text=Recipes")
    expect(page.locator("#keys")).to_be_hidden()
    page.click("#keys-open")
    expect(page.locator("#keys-why")).to_be_hidden()
    page.fill("#key-admin", "root-key")
    page.click("text=Use these")
    dfs = card(page, "mini-dfs")
    expect(page.locator("#live-state")).to_have_text("Live.")
    dfs.get_by_role("button", name="Unload mini-dfs").click()
    expect(dfs.locator(".state")).to_have_text("registered", timeout=WAIT_MS)
    assert page.evaluate("localStorage.length + document.cookie.length") == 0
    other = visit(f"{guarded}/", ("401",)).page
    assert other.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("late", ["models", "recipes"])
def test_a_late_refusal_of_an_old_key_asks_for_nothing(
    visit: Callable, guarded: str, late: str
) -> None:
    seen: list[str] = []
    held: list[Any] = []

    def hold(route: Any) -> None:
        """Without a key: the list of recipes, or the second one of models (the first one asks)."""
        kind = route.request.url.rpartition("/")[2]
        is_old = "authorization" not in route.request.headers
        if is_old and kind == late and (kind == "recipes" or kind in seen):
            held.append(route)
            return
        seen.append(kind)
        route.continue_()

    page = visit(f"{guarded}/", ("401",), prepare=lambda page: page.route(LISTS, hold)).page
    expect(page.locator("#keys")).to_be_visible()
    while not held:
        page.wait_for_timeout(20)
    page.fill("#key-api", "user-key")
    page.fill("#key-admin", "root-key")
    page.keyboard.press("Enter")
    expect(page.locator("#live-state")).to_have_text("Live.")
    expect(page.locator("#recipe-list .card")).to_have_count(2)
    while seen.count("recipes") - (late == "models") < 2:
        page.wait_for_timeout(20)  # a later refresh would hide what the late answer does
    page.wait_for_timeout(200)
    with page.expect_response(lambda answer: answer.status == 401):
        held.pop().continue_()
    page.wait_for_timeout(200)  # what it must not do would be done by now
    expect(page.locator("#keys")).to_be_hidden()
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#recipes-note")).to_be_hidden()
    expect(page.locator("#recipe-list .card")).to_have_count(2)


def test_registering_and_deleting_want_the_admin_key(visit: Callable, guarded: str) -> None:
    page = visit(f"{guarded}/#recipes", ("401",)).page
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.click("#register summary")
    text = str(plain_manifest("late")).replace("'", '"')
    page.fill("#manifest", text)
    page.click("#register-send")
    expect(page.locator("#keys")).to_be_visible()
    page.fill("#key-admin", "root-key")
    page.keyboard.press("Enter")
    expect(page.locator("#manifest")).to_have_value(text)
    page.click("#register-send")
    expect(card(page, "late")).to_have_count(1)
    card(page, "late").get_by_role("button", name="Delete").click()
    page.evaluate("sessionStorage.setItem('evoserve-admin-key', 'wrong')")
    page.click("#question-do")
    expect(page.locator("#keys")).to_be_visible()
    page.fill("#key-admin", "root-key")
    page.keyboard.press("Enter")
    expect(page.locator("#keys")).to_be_hidden()
    page.click("#question-do")
    expect(card(page, "late")).to_have_count(0)


def test_a_key_that_cannot_be_sent_is_refused_where_it_is_typed(
    visit: Callable, guarded: str
) -> None:
    page = visit(f"{guarded}/", ("401",)).page
    expect(page.locator("#keys-why")).to_have_text("An API key is needed.")
    field = page.locator("#key-api")
    for wrong in ("schl\u00fcssel\u65e5", "a\tb", "a\u0085b"):
        field.fill(wrong)
        assert "Latin-1" in field.evaluate("each => each.validationMessage")
        page.click("text=Use these")
        expect(page.locator("#keys")).to_be_visible()
    page.click("#keys >> text=Cancel")
    assert page.evaluate("sessionStorage.length") == 0
    page.click("#keys-open")
    page.fill("#key-api", " user-key ")
    page.click("text=Use these")
    expect(page.locator("#model-left option")).not_to_have_count(0)
    page.click("#keys-open")
    page.fill("#key-api", "wr\u00f6ng")
    page.click("text=Use these")
    expect(page.locator("#keys-why")).to_contain_text("Incorrect API key")
