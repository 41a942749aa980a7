"""Pictures of known data: counts, places, labels, and no markup from names."""

import math
import re
from xml.etree import ElementTree

import pytest

from search.report.data import FrontPicture, HeatMap, Part, PathPicture, Report, ScoreMap, Series
from search.report.data import Table as DataTable
from search.report.figures import MAX_COLUMNS, arrange, draw, ticks
from search.report.page import build_page

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</title><script>alert(1)</script>\"'&"


def pictures(part: Part) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(each) for each in re.findall(r"<svg.*?</svg>", draw(part))]


def test_a_series_is_three_lines_and_a_band() -> None:
    (svg,) = pictures(Series("fit", (0.0, 1.0), (0.0, 1.0), (0.0, 0.5), (0.0, 0.25)))
    lines = svg.findall(f"{SVG}polyline")
    assert len(lines) == 3
    assert lines[0].get("points") == "56.0,264.0 704.0,140.0"
    assert lines[2].get("points") == "56.0,264.0 704.0,16.0"
    assert len(svg.findall(f"{SVG}polygon")) == 1
    assert svg.findtext(f"{SVG}title") == "fit by generation"
    assert svg.findtext(f"{SVG}desc") == "From 0 to 1 in 2 generations."


@pytest.mark.parametrize("value", [0.0, 0.5, math.nan])
def test_one_generation_is_dots_also_without_variance(value: float) -> None:
    (svg,) = pictures(Series("fit", (value,), (value,), (value,), (value,)))
    assert len(svg.findall(f"{SVG}circle")) == 3
    assert "nan" not in ElementTree.tostring(svg, encoding="unicode")


def test_a_heat_map_has_a_cell_and_a_number_for_each_value() -> None:
    (svg,) = pictures(HeatMap("w", ("embed", "all"), ("a", "b"), ((0.5, -1.0), (math.nan, 0.0))))
    cells = svg.findall(f"{SVG}rect")
    assert [cell.get("class") for cell in cells] == ["heat", "below", "none", "heat"]
    labels = [each.text for each in svg.findall(f"{SVG}text")]
    assert labels == ["a", "b", "embed", "0.5", "-1", "all", "–", "0"]


def test_a_path_has_a_dot_per_step_sized_by_scale() -> None:
    (svg,) = pictures(PathPicture("p", (("a", 0, 1.0), ("b", 3, 0.25), ("a", 1, math.inf))))
    dots = svg.findall(f"{SVG}circle")
    assert [dot.get("class") for dot in dots] == ["dot c0", "dot c1", "dot c0"]
    assert [dot.get("r") for dot in dots] == ["7", "3.5", "14"]
    assert float(dots[1].get("cy") or 0) < float(dots[0].get("cy") or 0)
    assert len(svg.findall(f"{SVG}polyline")) == 2


def test_items_are_sorted_by_who_solves_them_and_nan_is_distinct() -> None:
    scores = ScoreMap("s", ("x", "y"), ((0.0, 1.0, math.nan), (1.0, 0.0, 1.0)))
    table, per_column = arrange(scores)
    assert per_column == 1
    assert table[0, :2].tolist() == [1.0, 0.0]
    assert math.isnan(table[0, 2])
    (svg,) = pictures(scores)
    cells = [cell.get("class") for cell in svg.findall(f"{SVG}rect")]
    assert cells == ["heat", "heat", "none", "heat", "heat", "heat"]


def test_many_items_share_columns() -> None:
    scores = ScoreMap("s", ("x",), ((1.0,) * 500 + (0.0,) * 500,))
    table, per_column = arrange(scores)
    assert per_column == 3
    assert table.shape[1] == 334 <= MAX_COLUMNS
    assert table[0, [0, -1]].tolist() == [1.0, 0.0]
    assert len(pictures(ScoreMap("s", ("x",), ((1.0,),)))[0].findall(f"{SVG}rect")) == 1


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 4)])
def test_a_front_shows_every_pair_and_the_hypervolume(count: int, expected: int) -> None:
    names = tuple("abc"[:count])
    points = ((0.0,) * count, (1.0,) * count)
    found = pictures(FrontPicture(names, points, (1,), (0.0, 1.0)))
    assert len(found) == expected
    if count > 1:
        kinds = [dot.get("class") for dot in found[0].findall(f"{SVG}circle")]
        assert kinds == ["dot c1 pale", "dot c0"]


def test_an_empty_front_is_an_empty_plot() -> None:
    (svg,) = pictures(FrontPicture(("a", "b"), (), (), ()))
    assert not svg.findall(f"{SVG}circle")


def test_names_from_files_are_never_markup() -> None:
    parts: tuple[Part, ...] = (
        Series(EVIL, (1.0,), (1.0,), (1.0,), (1.0,)),
        HeatMap(EVIL, (EVIL,), (EVIL,), ((1.0,),)),
        PathPicture(EVIL, ((EVIL, 0, 1.0),)),
        ScoreMap(EVIL, (EVIL,), ((1.0,),)),
        FrontPicture((EVIL, EVIL), ((1.0, 1.0),), (0,), (0.0,)),
        DataTable(EVIL, (EVIL,), ((EVIL,),)),
    )
    page = build_page(EVIL, [Report(EVIL, EVIL + "\x00", parts)])
    assert "<script" not in page
    assert "\x00" not in page
    assert "&lt;script&gt;" in page
    for part in parts[:-1]:
        assert pictures(part)


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0.0, 0.375, False, [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]),
        (0.0437, 0.06, False, [0.045, 0.05, 0.055, 0.06]),
        (0.0, 1.0, True, [0, 1]),
        (0.0, 5.0, True, [0, 1, 2, 3, 4, 5]),
        (0.0, 99.0, True, [0, 20, 40, 60, 80]),
    ],
)
def test_marks_are_round_numbers(
    low: float, high: float, whole: bool, expected: list[float]
) -> None:
    assert ticks(low, high, whole=whole) == pytest.approx(expected, abs=1e-9)


def test_runs_of_equal_columns_are_one_cell() -> None:
    scores = (1.0,) * 40 + (0.0,) * 59 + (math.nan,)
    (drawn,) = pictures(ScoreMap("t", ("a",), (scores,)))
    cells = drawn.findall(f"{SVG}rect")
    assert [cell.get("class") for cell in cells] == ["heat", "heat", "none"]
    widths = [float(cell.get("width") or 0) for cell in cells]
    assert widths[0] / widths[1] == pytest.approx(40 / 59, rel=0.01)
    places = [float(cell.get("x") or 0) for cell in cells]
    assert places == sorted(places)
