"""SVG and HTML elements as text; every name from outside is escaped here."""

import html
import math
from collections.abc import Sequence

from search.report.data import Table

NUM_COLOURS = 7


def clean(text: str) -> str:
    """Escaped for element content and quoted attributes; control characters are replaced."""
    kept = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    return html.escape(kept, quote=True)


def number(value: float) -> str:
    """Three significant digits; a dash for NaN."""
    return f"{value:.3g}" if math.isfinite(value) else "–"


def element(tag: str, body: str = "", **attributes: object) -> str:
    """An element; `_` in names becomes `-`, `class_` is class. body: markup, already escaped."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{clean(_shown(value))}"'
        for key, value in attributes.items()
    )
    return f"<{tag}{given}>{body}</{tag}>" if body else f"<{tag}{given}/>"


def text(x: float, y: float, words: str, *, anchor: str = "start", class_: str = "t") -> str:
    """A label; x, y in the picture's units."""
    return element("text", clean(words), x=x, y=y, text_anchor=anchor, class_=class_)


def polyline(points: Sequence[tuple[float, float]], class_: str) -> str:
    """A line through the points; one point becomes a dot."""
    if len(points) == 1:
        return element("circle", cx=points[0][0], cy=points[0][1], r=3, class_=f"dot {class_}")
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=places, class_=f"line {class_}")


def picture(width: float, height: float, body: str, title: str, description: str) -> str:
    """A whole picture with the words that a screen reader says."""
    head = element("title", clean(title)) + element("desc", clean(description))
    drawn = element(
        "svg",
        head + body,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=width,
        role="img",
    )
    return f'<div class="scroll">{drawn}</div>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """entries: (class of the mark, words)."""
    items = (f'<span><i class="{clean(c)}"></i>{clean(words)}</span>' for c, words in entries)
    return f'<p class="legend">{"".join(items)}</p>'


def details(table: Table) -> str:
    """The numbers of a picture, folded away."""
    return f"<details><summary>Numbers</summary>{draw_table(table)}</details>"


def draw_table(table: Table) -> str:
    """An HTML table."""
    head = "".join(f'<th scope="col">{clean(cell)}</th>' for cell in table.head)
    rows = "".join(
        f'<tr><th scope="row">{clean(row[0])}</th>'
        + "".join(f"<td>{clean(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{clean(table.title)}</caption>"
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
