"""The page's recipes: loaded, aliased, registered, deleted, live; none of them and sixty."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from live_server import running
from page_lab import PHONE, WAIT_MS, add, card, excess_width, plain_manifest

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect


def test_recipes_are_loaded_pinned_unloaded_and_aliased(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes", ("409",)).page
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
    expect(page.locator("#question-title")).to_have_text("Roll back team/prod?")
    shown = page.locator("#question-body").inner_text().split("Then, as in version 1:")
    assert "version 2" in shown[0]
    assert "75%" in shown[0]
    assert "mini-ties@" not in shown[1]
    with page.expect_request("**/rollback") as sent:
        page.click("#question-do")
    assert sent.value.post_data_json == {"version": 1}
    expect(alias).not_to_contain_text("75%")
    expect(alias.get_by_role("button", name="Roll back")).to_be_focused()
    expect(page.locator("#model-left option[value='team/prod']")).to_have_count(1)
    dfs.get_by_role("button", name="Delete").click()
    page.click("#question-do")
    expect(page.locator("#question-state")).to_contain_text("alias 'team/prod'")
    page.click("#question >> text=Cancel")
    alias.get_by_role("button", name="Remove").click()
    expect(page.locator("#question-body")).to_contain_text("mini-dfs@")
    page.click("#question >> text=Cancel")
    expect(alias.get_by_role("button", name="Remove")).to_be_focused()
    alias.get_by_role("button", name="Remove").click()
    page.click("#question-do")
    expect(alias).to_have_count(0)
    expect(page.locator("#aliases-title")).to_be_focused()
    dfs.get_by_role("button", name="Unload").click()
    expect(dfs.locator(".state")).to_have_text("registered", timeout=WAIT_MS)


def test_a_manifest_is_registered_as_text_or_file_and_deleted_when_asked(
    visit: Callable, site: str, tmp_path: Path
) -> None:
    page = visit(f"{site}/#recipes", ("400",)).page
    expect(page.locator("#live-state")).to_have_text("Live.")
    page.click("#register summary")
    score = {"task": "x", "metric": "y", "score": "high", "num_items": 1}
    wrong = plain_manifest("typed", evaluation=[score])
    page.fill("#manifest", json.dumps(wrong))
    page.click("#register-send")
    expect(page.locator("#register-error")).to_contain_text("evaluation[0].score")
    expect(page.locator("#manifest")).to_be_focused()
    page.fill("#manifest", json.dumps(plain_manifest("typed")))
    page.click("#register-send")
    expect(card(page, "typed").get_by_role("link")).to_be_focused()
    expect(page.locator("#register-error")).to_be_hidden()

    page.click("#register summary")
    for name, content in (("image.json", b"\xff\xfe\x00"), ("big.json", b"x" * (2**22 + 1))):
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#manifest-file", tmp_path / name)
        expect(page.locator("#register-error")).to_contain_text(name)
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "format: evoserve/1\nname: filed\nsources: {a: {model: mini/ja}}\n", encoding="utf-8"
    )
    page.set_input_files("#manifest-file", file)
    expect(page.locator("#manifest")).to_have_value(file.read_text())
    expect(page.locator("#register-error")).to_be_hidden()
    page.click("#register-send")
    expect(card(page, "filed")).to_have_count(1)

    for name in ("typed", "filed"):
        card(page, name).get_by_role("button", name="Delete").click()
        expect(page.locator("#question-title")).to_have_text(f"Delete {name}?")
        page.click("#question >> text=Cancel")
        expect(card(page, name)).to_have_count(1)
        card(page, name).get_by_role("button", name="Delete").click()
        page.click("#question-do")
        expect(card(page, name)).to_have_count(0)
        expect(page.locator("#question")).to_be_hidden()
    names = [each["name"] for each in httpx.get(f"{site}/v1/recipes").json()["data"]]
    assert not {"typed", "filed"} & set(names)


def test_what_a_rollback_shows_is_what_it_does(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes").page
    path = f"{site}/v1/aliases/shown"
    httpx.put(path, json={"recipe": "mini-ties"}, timeout=60).raise_for_status()
    alias = page.locator('[data-alias="shown"]')
    alias.get_by_role("button", name="Roll back").click()
    expect(page.locator("#notice")).to_contain_text("shown has nothing to go back to")
    expect(page.locator("#question")).to_be_hidden()
    for recipe in ("mini-dfs", "mini-ps-dfs"):
        httpx.put(path, json={"recipe": recipe}, timeout=60).raise_for_status()
    expect(alias).to_contain_text("version 3")
    alias.get_by_role("button", name="Roll back").click()
    expect(page.locator("#question-body")).to_contain_text("mini-dfs@")
    httpx.post(f"{path}/rollback", timeout=60).raise_for_status()
    expect(alias).to_contain_text("version 4")
    page.click("#question-do")
    expect(alias).to_contain_text("version 5")
    expect(alias).to_contain_text("mini-dfs@")
    expect(alias.get_by_role("button", name="Roll back")).to_be_focused()
    httpx.delete(path).raise_for_status()
    for name in ("mini-dfs", "mini-ps-dfs", "mini-ties"):
        httpx.post(f"{site}/v1/recipes/{name}/unload", timeout=60)


def test_a_name_that_a_browser_would_fold_is_not_sent(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes").page
    old = {"id": "a/../b", "version": 1, "targets": []}
    page.route("**/v1/aliases", lambda route: route.fulfill(json={"data": [old]}))
    sent: list[str] = []
    page.on("request", lambda request: sent.append(f"{request.method} {request.url}"))
    expect(page.locator("#live-state")).to_have_text("Live.")
    page.click("#to-aliases")
    expect(page.locator("#aliases-title")).to_be_focused()
    field = page.locator("#alias-name")
    for name in ("a/../b", "..", ".", "a//b", "/a", "a/", "a/."):
        field.fill(name)
        page.click("#alias-form button")
        assert field.evaluate("each => each.validationMessage").startswith("Invalid alias")
        expect(field).to_be_focused()
    field.fill("a/..b/c.")
    assert field.evaluate("each => each.validity.valid")
    page.reload()
    alias = page.locator("#alias-list .card")
    alias.get_by_role("button", name="Roll back").click()
    expect(page.locator("#notice")).to_contain_text("Invalid alias")
    alias.get_by_role("button", name="Remove").click()
    page.click("#question-do")
    expect(page.locator("#question-state")).to_contain_text("Invalid alias")
    assert {each.partition(" ")[0] for each in sent} == {"GET"}
    assert not any(each.endswith("/b") for each in sent)


def test_changes_by_others_show_up_by_themselves(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes").page
    expect(page.locator("#live-state")).to_have_text("Live.")
    state = card(page, "mini-ps-dfs").locator(".state")
    httpx.post(f"{site}/v1/recipes/mini-ps-dfs/load", timeout=60)
    expect(state).to_have_text("ready", timeout=WAIT_MS)
    httpx.post(f"{site}/v1/recipes/mini-ps-dfs/unload", timeout=60)
    expect(state).to_have_text("registered", timeout=WAIT_MS)


def test_none_and_sixty_recipes_are_both_shown_well(visit: Callable) -> None:
    with running() as url:
        page = visit(f"{url}/", viewport=PHONE).page
        page.click("text=register one")
        expect(page.locator("#no-recipes")).to_be_visible()
        expect(page.locator("#no-aliases")).to_be_visible()
        expect(page.locator("#alias-form")).to_be_hidden()
        for index in range(60):
            add(url, plain_manifest(f"many-{index:02}"))
        expect(page.locator("#recipe-list .card")).to_have_count(60)
        expect(page.locator("#no-recipes")).to_be_hidden()
        assert excess_width(page) <= 0
        page.fill("#find", "Many-37")
        expect(page.locator("#found")).to_have_text("1 of 60")
        expect(page.locator("#recipe-list .card:visible")).to_have_count(1)
        page.fill("#find", "")
        expect(page.locator("#recipe-list .card:visible")).to_have_count(60)
        page.click("nav >> text=Chat")
        expect(page.locator("#no-models")).to_be_hidden()
        expect(page.locator("#model-left option[value='many-59']")).to_have_count(1)
