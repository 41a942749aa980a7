"""Chat on the page at /: streaming, two side by side, stopping, figures."""

from collections.abc import Callable

import pytest
from page_lab import ENDLESS_TOKENS, WAIT_MS, choose, send

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect


def test_a_chat_streams_with_its_figures_and_goes_on(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    choose(page, "left", "mini-ties")
    send(page, "12 + 30 = ?")
    answer = page.locator(".turn:not(.user)").first
    expect(answer.locator(".figures")).to_contain_text("tokens", timeout=WAIT_MS)
    expect(answer.locator(".figures")).to_contain_text("first after")
    send(page, "3 + 4 = ?")
    expect(page.locator(".turn.user")).to_have_count(2)
    expect(page.locator(".turn .figures").nth(1)).to_contain_text("tokens", timeout=WAIT_MS)
    page.click("#clear")
    expect(page.locator(".turn")).to_have_count(0)


def test_two_answer_side_by_side(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    page.check("#two")
    choose(page, "left", "mini-ties@")
    choose(page, "right", "mini-dfs@")
    send(page, "1 + 1 = ?")
    figures = page.locator(".turn:not(.user) .figures")
    expect(figures).to_have_count(2)
    for index, recipe in enumerate(("mini-ties@", "mini-dfs@")):
        expect(figures.nth(index)).to_contain_text("tokens", timeout=WAIT_MS)
        expect(page.locator(".pane").nth(index)).to_contain_text(recipe)
        expect(page.locator("#said p", has_text=f"{recipe}").last).to_contain_text(":")


def test_stop_ends_a_stream_and_frees_it(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    choose(page, "left", "endless")
    send(page, "1", max_tokens=ENDLESS_TOKENS)
    expect(page.locator(".turn[aria-busy] .text")).to_contain_text("<", timeout=WAIT_MS)
    page.keyboard.press("Escape")
    expect(page.locator(".turn .figures")).to_contain_text("stopped")
    expect(page.locator("#send")).to_be_enabled()
    send(page, "2", max_tokens=2)
    expect(page.locator(".turn .figures").nth(1)).to_contain_text("2 tokens", timeout=WAIT_MS)


def test_a_new_conversation_leaves_nothing_of_the_old_one(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    choose(page, "left", "endless")
    send(page, "old", max_tokens=ENDLESS_TOKENS)
    expect(page.locator(".turn[aria-busy] .text")).to_contain_text("<", timeout=WAIT_MS)
    page.click("#clear")
    expect(page.locator("#send")).to_be_enabled()
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, "new", max_tokens=2)
    assert sent.value.post_data_json["messages"] == [{"role": "user", "content": "new"}]
    expect(page.locator(".turn .figures")).to_contain_text("2 tokens", timeout=WAIT_MS)


def test_a_refusal_is_shown_and_what_was_asked_is_kept(visit: Callable, site: str) -> None:
    page = visit(f"{site}/", ("400",)).page
    choose(page, "left", "mini-ties")
    send(page, "9" * 3000)
    expect(page.locator(".turn .bad")).to_contain_text("context", timeout=WAIT_MS)
    expect(page.locator(".turn .figures")).to_have_text("failed")
    expect(page.locator("#prompt")).to_have_value("9" * 3000)


def test_a_rate_is_shown_only_of_answers_long_enough_to_have_one(
    visit: Callable, site: str
) -> None:
    page = visit(f"{site}/").page
    of = {"start": 1000, "first": 1500, "pieces": 5}
    cases = [
        ({**of, "last": 1900, "tokens": 9}, "stop"),
        ({**of, "last": 1900, "tokens": 7}, "stop"),
        ({**of, "last": 1690, "tokens": 9}, "length"),
        ({**of, "last": 2500, "tokens": None, "pieces": 11}, "stopped"),
        ({**of, "first": 0, "last": 0, "tokens": 1}, "stop"),
        ({**of, "first": 0, "last": 0, "tokens": None, "pieces": 0}, "failed"),
    ]
    said = page.evaluate(
        "async cases => { const { figures } = await import('/ui/figures.js');"
        " return cases.map(([count, reason]) => figures(count, reason)); }",
        cases,
    )
    assert said == [
        "9 tokens · first after 0.50 s · 20.0 tokens/s",
        "7 tokens · first after 0.50 s",
        "9 tokens · first after 0.50 s · cut at max tokens",
        "11 pieces of text · first after 0.50 s · 10.0 pieces/s · stopped",
        "1 token",
        "failed",
    ]
