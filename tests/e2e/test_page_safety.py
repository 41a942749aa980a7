"""The page is served under a strict policy, and hostile names and output stay text."""

from collections.abc import Callable

import httpx
import pytest
from page_lab import MARKUP, WAIT_MS, choose, send

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect


def test_browsers_get_the_page_and_others_json(site: str) -> None:
    assert httpx.get(f"{site}/").json()["name"] == "evoserve"
    answer = httpx.get(f"{site}/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    again = {"Accept": "text/html", "If-None-Match": answer.headers["etag"]}
    assert httpx.get(f"{site}/", headers=again).status_code == 304
    for path in ("/ui/none.js", "/ui/..%2Fpage.py", "/ui/%2e%2e/page.py"):
        assert httpx.get(site + path).status_code == 404
    assert httpx.get(f"{site}/ui/app.js").headers["content-type"].startswith("text/javascript")


def test_hostile_names_and_output_stay_text(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipe/endless", ("404",)).page
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
