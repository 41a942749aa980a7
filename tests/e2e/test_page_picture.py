"""A recipe's picture: coefficients by layer, the path with its scales, one colour per model."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from live_server import running
from page_lab import add, card

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested by playwright")
expect = playwright.expect
NAMES = ("ja", "math", "math2", "ja-again", "math-again", "a-sixth-source-with-a-long-name")
MODELS = ("ja", "math", "math2")


@pytest.fixture(scope="module")
def unusual() -> Iterator[str]:
    """A server with a path of 90 steps, six sources, extreme values and a name of 128 letters."""
    sources = {name: {"model": f"mini/{name}"} for name in ("base", *MODELS)}
    steps = [f"{MODELS[hop % 3]}[{hop * 5 % 6}]" for hop in range(90)]
    six = {name: {"model": f"mini/{MODELS[index % 3]}"} for index, name in enumerate(NAMES)}
    merge = {"method": "ties", "base": "base", "groups": ["embed", "layers[0:3]", "layers", "head"]}
    extreme = {"ja": [-3.5, 0.001, -0.25, 12.5], "math": [0, 0, 1e-5, -1]}
    manifests = [
        {"name": "long-path", "sources": sources, "path": steps, "scaling": {"default": 1.5}},
        {
            "name": "six",
            "sources": {"base": sources["base"], **six},
            "merges": {"ps": {**merge, "weights": dict.fromkeys(NAMES, 0.5)}},
            "path": ["ps[0:4]", *(f"{name}[4]" for name in NAMES), "ps[4:6]"],
        },
        {
            "name": "extreme",
            "sources": sources,
            "merges": {"ps": {**merge, "weights": extreme, "densities": {"ja": [1e-6, 1, 0.5, 1]}}},
        },
        {"name": "n" * 128, "sources": {"base": sources["base"]}},
        {
            "name": "exact",
            "sources": sources,
            "merges": {"ps": {**merge, "weights": {"ja": 0.123456789, "math": 1234.5678}}},
            "path": ["ps[0:6]"],
            "scaling": {"per_hop": [1, 1, 0.98765432, 1, 1, 1], "target": "hidden_state"},
        },
    ]
    with running() as url:
        for manifest in manifests:
            add(url, {"format": "evoserve/1", **_only_used(manifest)})
        yield url


def _only_used(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without the sources that nothing reads, which a manifest may not name."""
    text = str([manifest.get("merges"), manifest.get("path")])
    is_plain = "merges" not in manifest and "path" not in manifest
    sources = {
        name: source
        for name, source in manifest["sources"].items()
        if is_plain or f"'{name}" in text
    }
    return {**manifest, "sources": sources}


def rows_of(page: Any, title: str) -> list[list[str]]:
    """The table below a picture."""
    figure = page.locator("figure", has=page.get_by_role("img", name=title))
    figure.locator("summary").click()
    return [row.split("\t") for row in figure.locator("tbody tr").all_inner_texts()]


def test_pictures_of_ps_and_dfs_recipes(visit: Callable, site: str) -> None:
    page = visit(f"{site}/#recipes").page
    card(page, "mini-dare-ties").get_by_role("link").click()
    expect(page.locator("#recipe-title")).to_be_focused()
    weights = page.get_by_role("img", name="weights")
    expect(weights).to_be_visible()
    expect(page.get_by_role("img", name="densities")).to_be_visible()
    rows = rows_of(page, "weights")
    assert ["ja, tensors with “self_attn”", "layers 2 to 3", "0.6"] in rows
    assert ["ja", "layers 0 to 1", "0.8"] in rows
    page.goto(f"{site}/#recipes")
    card(page, "mini-dfs").get_by_role("link").click()
    path = page.get_by_role("img", name="Path through the layers")
    expect(path.locator("circle")).to_have_count(8)
    assert rows_of(page, "Path through the layers")[3:6] == [
        ["3", "ja", "3", "1"],
        ["4", "math", "3", "0.9"],
        ["5", "ja", "4", "0.95"],
    ]
    expect(page.locator("dl")).to_contain_text("weights_digest")


def test_a_model_has_one_colour_in_all_pictures(visit: Callable, unusual: str) -> None:
    page = visit(f"{unusual}/#recipe/six").page
    expect(page.locator("circle")).to_have_count(12)
    dots = page.locator("circle").evaluate_all("all => all.map(each => each.classList[1])")
    bars = page.locator("rect.bar").evaluate_all("all => all.map(each => each.classList[1])")
    assert dots[4:10] == list(dict.fromkeys(bars)) == [f"c{index}" for index in range(6)]
    assert dots[0] == dots[-1] == "c6"
    expect(page.locator("#recipe-body")).to_contain_text("Nothing is scaled.")


def test_extreme_values_are_told_apart_and_no_number_covers_another(
    visit: Callable, unusual: str
) -> None:
    page = visit(f"{unusual}/#recipe/extreme").page
    expect(page.get_by_role("img", name="densities")).to_be_visible()
    assert ["ja", "layer 3…", "-0.25"] in rows_of(page, "weights")
    covered = page.locator("svg").evaluate_all(
        """pictures => pictures.flatMap(picture => {
          const texts = [...picture.querySelectorAll('text')];
          const boxes = texts.map(text => text.getBBox());
          const view = picture.viewBox.baseVal;
          const meet = (a, b) => Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x) > 1
            && Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y) > 3;
          return boxes.flatMap((box, index) => {
            const other = boxes.findIndex((each, at) => at > index && meet(box, each));
            if (other >= 0) return [`${texts[index].textContent} / ${texts[other].textContent}`];
            const isInside = box.x >= -1 && box.x + box.width <= view.width + 1
              && box.y >= -1 && box.y + box.height <= view.height + 3;
            return isInside ? [] : [texts[index].textContent];
          });
        })"""
    )
    assert covered == []


def test_a_path_of_ninety_steps_and_a_long_name_fit(visit: Callable, unusual: str) -> None:
    page = visit(f"{unusual}/#recipe/long-path").page
    expect(page.locator("circle")).to_have_count(90)
    apart = page.locator("circle").evaluate_all(
        "dots => dots.slice(1).map((dot, index) => dot.cx.baseVal.value"
        " - dots[index].cx.baseVal.value - dot.r.baseVal.value)"
    )
    assert min(apart) > 0
    expect(page.locator("rect.bar")).to_have_count(90)
    page.goto(f"{unusual}/#recipe/{'n' * 128}")
    expect(page.locator("#recipe-title")).to_have_text("n" * 128)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_tables_are_exact_and_what_is_scaled_has_one_name(visit: Callable, unusual: str) -> None:
    page = visit(f"{unusual}/#recipe/exact").page
    weights = page.get_by_role("img", name="weights")
    expect(weights).to_contain_text("0.123")
    expect(weights).not_to_contain_text("0.1234")
    values = [value for *_, value in rows_of(page, "weights")]
    assert set(values) == {"0.123457", "1234.57"}
    path = page.get_by_role("img", name="Path through the layers")
    assert rows_of(page, "Path through the layers")[2] == ["2", "ps", "2", "0.987654"]
    head = page.locator("figure", has=path).locator("thead th").last
    expect(head).to_have_text("scale of the hidden state")
    assert [each.text_content() for each in path.locator("text", has_text="scale").all()] == [
        "scale of the hidden state"
    ]
    expect(path.locator("circle title").nth(2)).to_have_text("step 2: ps[2], × 0.988")
    for word in ("input", "MLP"):
        expect(page.locator("section.part", has=path)).not_to_contain_text(word)
    page.goto(f"{unusual}/#recipe/long-path")
    expect(page.locator("svg")).to_contain_text("scale of the MLP output")
