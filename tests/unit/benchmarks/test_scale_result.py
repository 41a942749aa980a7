"""Exponents, tables and pictures of scaling benchmark and profile, from known numbers."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.profile_result import (
    Limits,
    Part,
    Scenario,
    format_http,
    format_limits,
    format_scenario,
    limit_s,
    waiting_s,
)
from benchmarks.scale_chart import Chart, draw_bars, draw_charts
from benchmarks.scale_page import draw_profile, draw_scale, place, shares
from benchmarks.scale_result import (
    DECODE,
    KV,
    RESIDENT,
    Point,
    Prefix,
    Result,
    Sharing,
    format_case,
    format_prefix,
    format_sharing,
    growth,
    load_json,
    write_json,
)

SVG = "{http://www.w3.org/2000/svg}"
LIMITS: Limits = {"bytes_per_s": [9e9, 10e9], "operations_per_s": [100e9, 80e9]}


def point(x: float, rate: float) -> Point:
    numbers = {DECODE: [rate, rate * 2, rate / 2], KV: [x * 3], RESIDENT: [500.0]}
    return {"series": "one", "x": x, "numbers": numbers}


@pytest.fixture
def result() -> Result:
    points = [point(x, 100 / x) for x in (1, 2, 4)]
    cases = {"context": points, "streams": points[:1]}
    return {
        "benchmark": "scale",
        "model": "M",
        "machine": {"processor": "P", "num_cpus": 2, "system": "S"},
        "commit": None,
        "torch": "2",
        "forms": {"float32": {"cases": cases}, "int8": {"cases": {"context": points}}},
    }


@pytest.fixture
def scenario() -> Scenario:
    parts: list[Part] = [
        {"name": "qkv", "seconds": [0.002, 0.002], "num_bytes": 10**7, "operations": 10**6},
        {"name": "attention", "seconds": [0.004], "num_bytes": 10, "operations": 2 * 10**8},
        {"name": "rows", "seconds": [0.001], "num_bytes": 0, "operations": 0},
    ]
    return {
        "name": "decode, 8 sequences",
        "num_tokens": 8,
        "seconds": [0.010],
        "native": [0.008],
        "python": {"schedule": [0.0005], "sample": [0.0015]},
        "parts": parts,
    }


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(exponent: float) -> None:
    found = growth([(x, 3 * x**exponent) for x in (1, 2, 5, 20)])
    assert found is not None
    assert found.fit == pytest.approx(exponent)
    assert found.last == pytest.approx(exponent)


def test_a_tail_that_bends_upwards_shows_in_the_last_exponent() -> None:
    found = growth([(1, 10), (10, 11), (100, 1100)])
    assert found is not None
    assert found.fit < 1.1
    assert found.last == pytest.approx(2)


def test_there_is_no_exponent_of_one_place_or_of_nothing() -> None:
    assert growth([]) is None
    assert growth([(4, 2), (4, 3)]) is None
    assert growth([(1, 2), (2, 0)]) is None


def test_a_case_shows_spread_and_growth_and_no_exponent_of_the_process(result: Result) -> None:
    text = "\n".join(
        format_case("Context", "tokens", result["forms"]["float32"]["cases"]["context"])
    )
    assert "| one | 4 | 25.0 (12.5 - 50.0) | 12.0 | 500 |" in text
    assert "time per decode token 1.00 (1.00); KV cache, MB 1.00 (1.00)." in text


def test_sharing_names_both_ratios() -> None:
    row: Sharing = {
        "name": "ten",
        "by_recipe": [10**8, 2 * 10**8],
        "total": 21 * 10**7,
        "reference": 42 * 10**7,
        "compared": "all layers",
    }
    text = "\n".join(format_sharing([row]))
    assert "| ten | 150.0 (100.0 - 200.0) | 300.0 | 210.0 | 1.05 | 0.50 | all layers |" in text


def test_the_prefix_ratio_is_formed_within_a_prompt() -> None:
    found: Prefix = {
        "num_system_tokens": [499, 500],
        "first_s": [1.0, 0.5],
        "second_s": [0.05, 0.05],
    }
    assert "0.075 (0.050 - 0.100) of it" in format_prefix(found)


def test_a_result_is_of_its_own_benchmark(result: Result, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "scale.json"
    write_json(file, result)
    assert load_json(file, "scale") == result
    assert [each.name for each in file.parent.iterdir()] == ["scale.json"]
    with pytest.raises(
        ValueError, match=r"scale\.json is not a result of benchmarks\.profile_step"
    ):
        load_json(file, "profile_step")


def test_a_limit_is_of_memory_or_of_arithmetic(scenario: Scenario) -> None:
    limits = [limit_s(part, LIMITS) for part in scenario["parts"]]
    assert limits == pytest.approx([0.001, 0.002, 0.0])
    text = "\n".join(format_scenario("int8", scenario, LIMITS))
    assert "| qkv | 2.000 (2.000 - 2.000) | 20.0 | 1.000 | 2.00 | memory |" in text
    assert "| attention | 4.000 | 40.0 | 2.000 | 2.00 | arithmetic |" in text
    assert "| rows | 1.000 | 10.0 | - | - |  |" in text
    assert "| native pass | 8.000 | 80.0 | 3.000 | 2.67 | |" in text
    assert "| step: 800 tokens/s |" in text
    assert "memory 10.0 GB/s (least seen 9.0)" in format_limits("int8", LIMITS)


def test_parts_waiting_and_python_add_up_to_the_step(scenario: Scenario) -> None:
    assert waiting_s(scenario) == pytest.approx(0.001)
    assert sum(shares(scenario).values()) == pytest.approx(1.0)


def test_http_is_told_by_token() -> None:
    found = {"num_streams": 32, "num_tokens": 2000, "wall_s": 4.0, "loop_s": 0.4, "others_s": 6.0}
    text = format_http("int8", found)  # type: ignore[arg-type]
    assert "500 tokens/s" in text
    assert "200 us in the event loop" in text
    assert "3000 us in the engine's threads" in text


def test_every_measured_point_is_inside_its_picture(result: Result) -> None:
    pictures = draw_scale(result)
    assert sorted(pictures) == ["scale-context.svg", "scale-streams.svg"]
    drawn = ElementTree.fromstring(pictures["scale-context.svg"])
    width, height = (float(each) for each in drawn.attrib["viewBox"].split()[2:])
    lines = drawn.findall(f"{SVG}polyline")
    assert len(lines) == 2 * 2
    for line in lines:
        places = [tuple(map(float, each.split(","))) for each in line.attrib["points"].split()]
        assert len(places) == 3
        assert all(0 < x < width and 0 < y < height for x, y in places)
    assert drawn.findtext(f"{SVG}title")


def test_a_flat_curve_and_an_empty_bar_can_be_drawn() -> None:
    flat = Chart("memory", "x", {"a": [(1, (5.0, 5.0, 5.0)), (2, (5.0, 5.0, 5.0))]})
    ElementTree.fromstring(draw_charts("flat", [flat]))
    bars = ElementTree.fromstring(draw_bars("bars", {"step": {"all": 1.1, "less": -0.1}}))
    assert all(float(bar.get("width", "0")) >= 0 for bar in bars.findall(f"{SVG}rect"))


def test_the_profile_has_a_bar_for_each_form_and_step(scenario: Scenario) -> None:
    forms = {form: {"limits": LIMITS, "scenarios": [scenario]} for form in ("float32", "int8")}
    result = {"benchmark": "profile_step", "model": "M", "machine": {}, "commit": None}
    drawn = draw_profile({**result, "forms": forms})["profile-step.svg"]  # type: ignore[typeddict-item]
    words = [each.text for each in ElementTree.fromstring(drawn).findall(f"{SVG}text")]
    assert {"decode, 8 sequences, float32", "decode, 8 sequences, int8"} <= set(words)


def test_markdown_goes_between_its_own_markers() -> None:
    page = "".join(f"<!-- {n}: begin -->old<!-- {n}: end -->\n" for n in ("scale", "profile_step"))
    placed = place(page, "profile_step", "new")
    assert placed.count("old") == 1
    assert "<!-- profile_step: begin -->\n\nnew\n\n<!-- profile_step: end -->" in placed
    with pytest.raises(ValueError, match="no lines"):
        place("", "scale", "new")
