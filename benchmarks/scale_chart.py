"""SVG of the scaling benchmark and of the profile: curves on two logarithmic axes, stacked bars."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.serve_table import Three
from search.report.svg import element, number, polyline, text

WIDTH, LEFT, RIGHT, HEAD, PLOT, FOOT = 640, 64, 16, 44, 170, 44
BAR, BAR_STEP, NAMES = 18, 26, 190
NUM_COLOURS = 10
COLOURS = (
    ("#1f6feb", "#58a6ff"),
    ("#b35900", "#f0a35e"),
    ("#1a7f37", "#56d364"),
    ("#8250df", "#bc8cff"),
    ("#bf3989", "#f778ba"),
    ("#6e7781", "#8b949e"),
    ("#0b3d91", "#a5d6ff"),
    ("#953800", "#ffc680"),
    ("#116329", "#aff5b4"),
    ("#cf222e", "#ff7b72"),
)
"""On a light and on a dark page."""


@dataclass(frozen=True)
class Chart:
    """Curves of one measure: (x, (median, least, most)) by name."""

    title: str
    x_name: str
    curves: Mapping[str, Sequence[tuple[float, Three]]]


def draw_charts(title: str, charts: Sequence[Chart]) -> str:
    """One under the other, a legend over each."""
    parts, top = [], 0.0
    for chart in charts:
        parts += list(_chart(chart, top))
        top += HEAD + PLOT + FOOT
    return _picture(title, parts, top)


def draw_bars(title: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    """Shares of a whole, 0 to 1, one stacked bar for each; below zero is drawn as nothing, and
    what is more than the whole in sum is drawn as the whole."""
    names = list(dict.fromkeys(name for shares in bars.values() for name in shares))
    parts, top = list(_legend(names, 16)), 30 + 18.0 * math.ceil(len(names) / 4)
    for row, (label, shares) in enumerate(bars.items()):
        y, x = top + row * BAR_STEP, float(NAMES)
        scale = (WIDTH - NAMES - RIGHT) / max(
            1.0, sum(max(0.0, share) for share in shares.values())
        )
        parts.append(text(NAMES - 8, y + 13, label, anchor="end"))
        for name, share in shares.items():
            width = max(0.0, share) * scale
            colour = f"f{names.index(name) % NUM_COLOURS}"
            parts.append(element("rect", x=x, y=y, width=width, height=BAR, class_=colour))
            x += width
    return _picture(title, parts, top + len(bars) * BAR_STEP + 4)


def _chart(chart: Chart, top: float) -> Iterator[str]:
    points = [point for curve in chart.curves.values() for point in curve]
    xs = sorted({x for x, _ in points})
    lows, highs = [three[1] for _, three in points], [three[2] for _, three in points]
    low, high = min(lows), max(highs)
    yield text(0, top + 16, chart.title, class_="h")
    yield from _legend(list(chart.curves), top + 34)
    bottom = top + HEAD + PLOT

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = _share(x, xs[0], xs[-1]), _share(y, low, high)
        return LEFT + 8 + across * (WIDTH - LEFT - RIGHT - 16), bottom - 8 - up * (PLOT - 16)

    for x in xs:
        at = place(x, low)[0]
        yield element("line", x1=at, x2=at, y1=top + HEAD, y2=bottom, class_="g")
        yield text(at, bottom + 14, f"{x:g}", anchor="middle")
    yield text((WIDTH + LEFT) / 2, bottom + 30, chart.x_name, anchor="middle")
    for value in _ticks(low, high):
        at = place(xs[0], value)[1]
        yield element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="g")
        yield text(
            LEFT - 6, at + 4, number(value) if value < 1000 else f"{value:.0f}", anchor="end"
        )
    for index, curve in enumerate(chart.curves.values()):
        colour = f"s{index % NUM_COLOURS}"
        yield polyline([place(x, three[0]) for x, three in curve], colour)
        for x, (_, least, most) in curve:
            (x1, y1), (x2, y2) = place(x, least), place(x, most)
            yield element("line", x1=x1, x2=x2, y1=y1, y2=y2, class_=f"line {colour}")


def _legend(names: Sequence[str], y: float) -> Iterator[str]:
    """Four names in a row."""
    for index, name in enumerate(names):
        row, column = divmod(index, 4)
        x, at = column * WIDTH / 4, y + 18 * row
        colour = f"f{index % NUM_COLOURS}"
        yield element("rect", x=x, y=at - 9, width=10, height=10, class_=colour)
        yield text(x + 14, at, name)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low) if high > low else 0.5


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within the range, or its ends if there are none."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5))
    return [value for value in steps if low <= value <= high] or [low, high]


def _picture(title: str, parts: Sequence[str], height: float) -> str:
    head = element("title", title) + element("style", _style())
    return element(
        "svg",
        head + "".join(parts),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height:.0f}",
        width=WIDTH,
        role="img",
    )


def _style() -> str:
    def rules(side: int) -> str:
        each = enumerate(pair[side] for pair in COLOURS)
        return "".join(f".f{n}{{fill:{c}}}.s{n}{{stroke:{c};fill:none}}" for n, c in each)

    return (
        "text{font:12px system-ui,sans-serif;fill:#24292f}.h{font-weight:600}"
        f".line{{stroke-width:1.5}}.g{{stroke:#8b949e;stroke-opacity:.3}}{rules(0)}"
        f"@media(prefers-color-scheme:dark){{text{{fill:#e6edf3}}{rules(1)}}}"
    )
