"""JSON of the scaling benchmark and of the profile as Markdown and SVG for the documentation.

    python -m benchmarks.scale_page [--scale FILE] [--profile FILE] [--pictures FOLDER]
        [--page FILE]

Writes the pictures and prints the Markdown, or puts it between the marker lines of the page. What
has no JSON yet is left as it is.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import profile_result, scale_result
from benchmarks.profile_step import RESULT as PROFILE
from benchmarks.profile_step import format_form as format_profile
from benchmarks.provenance import ROOT
from benchmarks.scale import RESULT as SCALE
from benchmarks.scale import format_form as format_scale
from benchmarks.scale_cases import CASES
from benchmarks.scale_chart import Chart, draw_bars, draw_charts
from benchmarks.scale_result import DECODE, KV, PREFILL, WEIGHTS, curve, load_json, series_of
from benchmarks.serve_table import three

SHOWN = {
    "context": (DECODE, PREFILL, KV),
    "path": (DECODE, KV),
    "recipes": (DECODE, WEIGHTS),
    "streams": (DECODE, KV),
}
_PROFILE_TITLE = "Share of each part in a step"


def main() -> None:
    """Write the pictures; print or place the Markdown."""
    options = _parse()
    home = options.page.parent if options.page else options.pictures.parent
    folder = os.path.relpath(options.pictures, home)
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name, file in (("scale", options.scale), ("profile_step", options.profile)):
        if not file.exists():
            continue
        result: Any = load_json(file, name)
        is_scale = name == "scale"
        pictures = draw_scale(result) if is_scale else draw_profile(result)
        for picture, drawn in pictures.items():
            (options.pictures / picture).write_text(drawn + "\n", encoding="utf-8")
        markdown = "\n".join(write_markdown(result, folder, pictures, is_scale=is_scale))
        if options.page is None:
            print(markdown)
        else:
            page = place(options.page.read_text(encoding="utf-8"), name, markdown)
            options.page.write_text(page, encoding="utf-8")


def write_markdown(
    result: Any, folder: str, pictures: Mapping[str, str], *, is_scale: bool
) -> Iterator[str]:
    """Where it was measured, the pictures, the tables."""
    machine, commit = result["machine"], (result["commit"] or "unknown")[:12]
    yield (
        f"{result['model']} on {machine['num_cpus']} cores of {machine['processor']}; commit "
        f"{commit}. Median (least - most) over the repetitions."
    )
    for name in pictures:
        yield ""
        yield f"![{_title(name)}]({folder}/{name})"
    for form, found in result["forms"].items():
        yield from format_scale(form, found) if is_scale else format_profile(form, found)


def draw_scale(result: scale_result.Result) -> dict[str, str]:
    """A picture for each case that was measured, by file name; both forms in one chart."""
    drawn = {}
    for name, measures in SHOWN.items():
        charts = [chart for each in measures if (chart := _chart(result, name, each)).curves]
        if charts:
            drawn[f"scale-{name}.svg"] = draw_charts(CASES[name].title, charts)
    return drawn


def draw_profile(result: profile_result.Result) -> dict[str, str]:
    """One bar for each kind of step and form of the weights."""
    bars = {
        f"{scenario['name']}, {form}": shares(scenario)
        for form, found in result["forms"].items()
        for scenario in found["scenarios"]
    }
    return {"profile-step.svg": draw_bars(_PROFILE_TITLE, bars)} if bars else {}


def shares(scenario: profile_result.Scenario) -> dict[str, float]:
    """Of the step's median, by part; all Python is one."""
    whole = median(scenario["seconds"])
    parts = {part["name"]: median(part["seconds"]) for part in scenario["parts"]}
    parts[profile_result.WAITING] = profile_result.waiting_s(scenario)
    parts["Python"] = sum(median(seconds) for seconds in scenario["python"].values())
    return {name: seconds / whole for name, seconds in parts.items()}


def place(page: str, name: str, markdown: str) -> str:
    """The page with `markdown` between the markers of `name`. Raises ValueError without them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"the page has no lines {begin!r} and {end!r}")
    return f"{before}{begin}\n\n{markdown}\n\n{end}{after}"


def _chart(result: scale_result.Result, name: str, measure: str) -> Chart:
    curves = {}
    for form, found in result["forms"].items():
        points = [p for p in found["cases"].get(name, []) if measure in p["numbers"]]
        for series in series_of(points):
            numbers = curve(points, series, measure)
            curves[f"{series}, {form}"] = [(x, three(values)) for x, values in numbers]
    return Chart(measure, CASES[name].x_name, curves)


def _title(picture: str) -> str:
    name = picture.removeprefix("scale-").removesuffix(".svg")
    return f"{CASES[name].title}: rate and memory" if name in CASES else _PROFILE_TITLE


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=Path, default=SCALE)
    parser.add_argument("--profile", type=Path, default=PROFILE)
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs/performance")
    parser.add_argument("--page", type=Path, help="file with the marker lines")
    return parser.parse_args()


if __name__ == "__main__":
    main()
