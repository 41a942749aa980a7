"""What goes wrong is said where the reader is, and in words that fit."""

from collections.abc import Callable
from typing import Any

import pytest
from page_lab import (
    ENDLESS_TOKENS,
    PHONE,
    WAIT_MS,
    Proxy,
    card,
    choose,
    finish,
    send,
)

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect
SMALL = {"width": 1280, "height": 420}


def is_covered(page: Any) -> bool:
    """Does the notice lie over what has the focus?"""
    return bool(
        page.evaluate(
            "() => { const over = document.querySelector('#notice').getBoundingClientRect();"
            " const at = document.activeElement.getBoundingClientRect();"
            " return at.top < over.bottom && at.bottom > over.top; }"
        )
    )


@pytest.mark.parametrize("size", [SMALL, PHONE], ids=["desktop", "phone"])
def test_a_notice_is_seen_far_down_covers_no_focus_and_goes(
    visit: Callable, site: str, size: dict[str, int]
) -> None:
    page = visit(f"{site}/#recipes", ("400",), viewport=size).page
    expect(page.locator("#live-state")).to_have_text("Live.")
    button = page.locator("#alias-form button")
    page.fill("#alias-name", "none")
    page.fill("#alias-first-weight", "0")
    button.evaluate("each => { each.scrollIntoView({ block: 'start' }); each.focus(); }")
    button.press("Enter")
    expect(page.locator("#notice [role=alert]")).to_contain_text("All weights are 0")
    expect(page.locator("#notice")).to_be_in_viewport(ratio=1)
    expect(button).to_be_focused()
    page.wait_for_function("document.documentElement.style.scrollPaddingTop !== '0px'")
    assert not is_covered(page)
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        assert not is_covered(page)
    below = page.evaluate("scrollY")
    assert below > 0
    before = page.evaluate_handle("document.activeElement")
    page.click("#notice-close")
    expect(page.locator("#notice")).to_be_hidden()
    assert before.evaluate("each => each === document.activeElement")
    assert page.evaluate("scrollY") > 0


def test_a_button_under_the_notice_is_brought_out(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes", ("400",), viewport=SMALL).page
    expect(page.locator("#live-state")).to_have_text("Live.")
    page.route("**/pin", lambda route: route.fulfill(status=400, body="{}"))
    pin = card(page, "mini-dfs").get_by_role("button", name="Pin")
    pin.evaluate("each => { each.focus(); each.scrollIntoView({ block: 'start' }); }")
    pin.press("Enter")
    expect(page.locator("#notice")).to_contain_text("status 400")
    page.wait_for_function("document.documentElement.style.scrollPaddingTop !== '0px'")
    expect(pin).to_be_focused()
    assert not is_covered(page)


def test_a_broken_stream_and_a_server_that_is_down_are_told_apart(
    visit: Callable, site: str
) -> None:
    proxy = Proxy(site)
    page = visit(f"{proxy.url}/", ("net::",)).page
    choose(page, "left", "endless@")
    send(page, "1", max_tokens=ENDLESS_TOKENS)
    expect(page.locator(".turn[aria-busy] .text")).to_contain_text("<", timeout=WAIT_MS)
    proxy.cut()
    said = page.locator(".turn .bad")
    expect(said).to_have_text("The connection was lost before the answer was complete.")
    expect(page.locator("#said p").last).to_contain_text("The connection was lost")
    finish(page)
    send(page, "2")
    expect(said.last).to_have_text("The server cannot be reached.")
    expect(page.locator("#prompt")).to_have_value("2")
