"""Which recipe a side of the chat talks to, and which conversation it is told."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from page_lab import (
    ENDLESS_TOKENS,
    WAIT_MS,
    add,
    card,
    choose,
    chosen,
    finish,
    plain_manifest,
    send,
)

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect


def messages_of(page: Any, text: str) -> list[str]:
    """Send a text; the contents of what goes to the server."""
    with page.expect_request("**/v1/chat/completions") as sent:
        send(page, text, max_tokens=2)
    finish(page)
    return [each["content"] for each in sent.value.post_data_json["messages"]]


def test_names_come_before_exact_versions_and_the_first_one_is_chosen(
    visit: Callable, site: str
) -> None:
    page = visit(f"{site}/").page
    expect(page.locator("#model-left option")).not_to_have_count(0)
    groups = page.locator("#model-left optgroup").evaluate_all(
        "all => all.map(each => [each.label, [...each.children].map(option => option.value)])"
    )
    assert [label for label, _ in groups] == ["Names and aliases", "Exact versions"]
    (_, names), (_, exact) = groups
    assert not any("@" in name for name in names)
    assert all("@" in name for name in exact)
    assert page.input_value("#model-left") == names[0]
    look = "getComputedStyle(document.querySelector('#model-left')).paddingRight"
    assert int(page.evaluate(look).removesuffix("px")) >= 24  # the arrow's room


def test_what_is_left_empty_is_not_sent(visit: Callable, site: str) -> None:
    page = visit(f"{site}/").page
    expect(page.locator("#model-left option")).not_to_have_count(0)
    choose(page, "left", "mini-ties")
    page.click("#controls summary")
    expect(page.locator("#max_tokens")).to_have_attribute("placeholder", "recipe’s")
    page.fill("#prompt", "1 + 1 = ?")
    with page.expect_request("**/v1/chat/completions") as sent:
        page.click("#send")
    assert not {"max_tokens", "temperature", "top_p", "seed"} & set(sent.value.post_data_json)
    finish(page)


def test_a_recipe_that_goes_stays_chosen_and_comes_back(visit: Callable, site: str) -> None:
    manifest = plain_manifest("passing")
    model_id = add(site, manifest)
    try:
        page = visit(f"{site}/", ("404",)).page
        choose(page, "left", "passing@")
        page.check("#two")
        others = chosen(page, "right")
        assert messages_of(page, "one")[-1:] == ["one"]
        httpx.delete(f"{site}/v1/recipes/{model_id}", timeout=60).raise_for_status()
        gone = page.locator("#model-left option", has_text="(not there now)")
        expect(gone).to_have_attribute("value", model_id)
        assert chosen(page, "left") == f"{model_id} (not there now)"
        assert chosen(page, "right") == others
        send(page, "two", max_tokens=2)
        finish(page)
        expect(page.locator(".pane").first.locator(".turn .bad")).to_contain_text(model_id)
        assert page.locator(".anew").count() == 0
        add(site, manifest)
        expect(gone).to_have_count(0)
        assert chosen(page, "left") == model_id
        messages = messages_of(page, "three")
        assert messages[0] == "one"
        assert messages[-1] == "three"
    finally:
        httpx.delete(f"{site}/v1/recipes/{model_id}", timeout=60)


def test_another_recipe_begins_a_new_conversation_below_the_old_one(
    visit: Callable, site: str
) -> None:
    page = visit(f"{site}/").page
    choose(page, "left", "mini-ties@")
    expect(page.locator(".anew")).to_have_count(0)
    messages_of(page, "one")
    choose(page, "left", "mini-dfs@")
    choose(page, "left", "mini-ties@")
    expect(page.locator(".anew")).to_have_count(1)
    expect(page.locator(".anew")).to_contain_text("New conversation with mini-ties@")
    expect(page.locator("#said p").last).to_contain_text("New conversation with mini-ties@")
    assert messages_of(page, "two") == ["two"]
    expect(page.locator(".turn.user")).to_have_text([r"Youone", "Youtwo"])
    for name, expected in (("mini-ties", 1), ("mini-dfs", 2)):
        page.click("nav >> text=Recipes")
        card(page, name).get_by_role("button", name="Chat").click()
        expect(page.locator("#view-chat")).to_be_visible()
        expect(page.locator(".anew")).to_have_count(expected)
    assert messages_of(page, "three") == ["three"]
    assert messages_of(page, "four")[0] == "three"


def test_a_running_answer_belongs_to_the_conversation_that_asked(
    visit: Callable, site: str
) -> None:
    page = visit(f"{site}/").page
    choose(page, "left", "endless@")
    send(page, "old", max_tokens=ENDLESS_TOKENS)
    expect(page.locator(".turn[aria-busy] .text")).to_contain_text("<", timeout=WAIT_MS)
    page.click("nav >> text=Recipes")
    page.keyboard.press("Escape")
    card(page, "mini-ties").get_by_role("button", name="Chat").click()
    expect(page.locator("#chat-title")).to_be_focused()
    page.click("#keys-open")
    page.keyboard.press("Escape")
    expect(page.locator("#keys")).to_be_hidden()
    expect(page.locator(".turn[aria-busy]")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".turn .figures")).to_contain_text("stopped")
    assert page.locator(".log").first.locator("> *").evaluate_all(
        "all => all.map(each => each.className)"
    ) == ["turn user", "turn", "anew"]
    assert messages_of(page, "new") == ["new"]
