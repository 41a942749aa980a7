"""From data to pictures: pure functions that return HTML with inline SVG."""

import math
from collections.abc import Sequence
from itertools import combinations, groupby, pairwise
from typing import Any

import numpy as np

from search.report.data import (
    FrontPicture,
    HeatMap,
    Part,
    PathPicture,
    ScoreMap,
    Series,
    Table,
    Values,
)
from search.report.svg import (
    NUM_COLOURS,
    clean,
    details,
    draw_table,
    element,
    legend,
    number,
    picture,
    polyline,
    text,
)

WIDTH, HEIGHT, LEFT, TOP = 720.0, 300.0, 56.0, 16.0
MAX_COLUMNS = 400
MAX_TABLE_ROWS = 500
MAX_SINGLE_COLUMNS = 60


def draw(part: Part) -> str:
    """The picture of any part, with its legend and numbers."""
    match part:
        case Series():
            return draw_series(part)
        case HeatMap():
            return draw_heat_map(part)
        case PathPicture():
            return draw_path(part)
        case ScoreMap():
            return draw_score_map(part)
        case FrontPicture():
            return draw_front(part)
        case Table():
            return draw_table(part)


def draw_series(series: Series) -> str:
    """Best so far, best, mean and the band from worst to best by generation."""
    count = len(series.best)
    y = _scale([*series.worst, *series.best_so_far], TOP, HEIGHT - 36)
    x = _scale([0, max(count - 1, 1)], WIDTH - 16, LEFT)
    frame = _axes(x, y, (0, max(count - 1, 1)), "generation", whole=True)
    upper = [(x.at(n), y.at(v)) for n, v in enumerate(series.best)]
    lower = [(x.at(n), y.at(v)) for n, v in enumerate(series.worst)]
    places = " ".join(f"{a:.1f},{b:.1f}" for a, b in [*upper, *lower[::-1]])
    band = element("polygon", points=places, class_="band") if count > 1 else ""
    lines = (("c1", series.mean), ("c2", series.best), ("c0", series.best_so_far))
    drawn = "".join(polyline([(x.at(n), y.at(v)) for n, v in enumerate(vs)], c) for c, vs in lines)
    title = f"{series.name} by generation"
    svg = picture(WIDTH, HEIGHT, frame + band + drawn, title, _said(series))
    marks = [("c0", "best so far"), ("c2", "best"), ("c1", "mean"), ("band", "worst to best")]
    columns = zip(series.best_so_far, series.best, series.mean, series.worst, strict=True)
    rows = tuple((str(n), *map(number, row)) for n, row in enumerate(columns))
    head = ("generation", "best so far", "best", "mean", "worst")
    return legend(marks) + svg + details(Table(title, head, _thinned(rows)))


def draw_heat_map(heat: HeatMap) -> str:
    """Groups down, sources across, the number in every cell; below zero in the other colour."""
    cell, high, left = 96.0, 24.0, 150.0
    finite = [abs(v) for row in heat.values for v in row if math.isfinite(v)]
    top = max([*finite, 1e-12])
    body = [
        text(left + (n + 0.5) * cell, 16, name[:14], anchor="middle")
        for n, name in enumerate(heat.columns)
    ]
    for r, (name, row) in enumerate(zip(heat.rows, heat.values, strict=True)):
        body.append(text(left - 8, 24 + (r + 0.7) * high, name[:24], anchor="end"))
        for c, value in enumerate(row):
            known = math.isfinite(value)
            kind = "none" if not known else "below" if value < 0 else "heat"
            shade = 0.06 + 0.54 * abs(value) / top if known else 1.0
            x, y = left + c * cell, 24 + r * high
            place: dict[str, Any] = {"x": x, "y": y, "width": cell - 2, "height": high - 2}
            body.append(element("rect", class_=kind, fill_opacity=shade, **place))
            body.append(text(x + cell / 2, y + 16, number(value), anchor="middle"))
    width, height = left + cell * len(heat.columns) + 8, 32 + high * len(heat.rows)
    svg = picture(width, height, "".join(body), heat.title, "Groups by sources.")
    rows = tuple((n, *map(number, v)) for n, v in zip(heat.rows, heat.values, strict=True))
    return svg + details(Table(heat.title, ("group", *heat.columns), _thinned(rows)))


def draw_path(path: PathPicture) -> str:
    """x: step, y: layer, colour: model, size: scale."""
    models = list(dict.fromkeys(model for model, _, _ in path.steps))
    layers = [layer for _, layer, _ in path.steps]
    x = _scale([0, max(len(path.steps) - 1, 1)], WIDTH - 24, LEFT + 12)
    y = _scale([0, max([*layers, 4])], TOP, HEIGHT - 36)
    body = _axes(x, y, (0, max(len(path.steps) - 1, 1)), "step", whole=True)
    places = [(x.at(n), y.at(layer)) for n, layer in enumerate(layers)]
    body += "".join(polyline(pair, "thin") for pair in pairwise(places))
    for (model, layer, scale), (cx, cy) in zip(path.steps, places, strict=True):
        tip = element("title", clean(f"{model}[{layer}] x{number(scale)}"))
        radius = min(14.0, max(2.5, 7 * math.sqrt(abs(scale))))
        colour = f"dot c{models.index(model) % NUM_COLOURS}"
        body += element("circle", tip, cx=cx, cy=cy, r=radius, class_=colour)
    words = f"{len(path.steps)} steps over {', '.join(models)}"
    svg = picture(WIDTH, HEIGHT, body, path.title, words)
    marks = [(f"c{n % NUM_COLOURS}", model) for n, model in enumerate(models)]
    rows = tuple((str(n), m, str(k), number(s)) for n, (m, k, s) in enumerate(path.steps))
    table = Table(path.title, ("step", "model", "layer", "scale"), _thinned(rows))
    return legend([*marks, ("", "size: scale of the step's input")]) + svg + details(table)


def draw_score_map(scores: ScoreMap) -> str:
    """Recipes down, items across, sorted by who solves them; averaged beyond MAX_COLUMNS."""
    columns, per_column = arrange(scores)
    names = [name if len(name) <= 46 else name[:45] + "…" for name in scores.rows]
    high, left, width = 20.0, max(110.0, 20 + 6.6 * max(map(len, names), default=0)), 900.0
    wide = (width - left - 70) / max(1, columns.shape[1])
    body = ""
    for r, name in enumerate(names):
        y = 8 + r * high
        body += text(left - 8, y + 14, name, anchor="end")
        for c, span, value in _spans(columns[r].tolist()):
            known = math.isfinite(value)
            shade = 0.08 + 0.92 * min(1.0, max(0.0, value)) if known else 1.0
            place: dict[str, Any] = {
                "x": left + c * wide,
                "y": y,
                "width": max(span * wide - 0.3, 0.4),
                "height": 18.0,
            }
            kind = "heat" if known else "none"
            body += element("rect", class_=kind, fill_opacity=shade, **place)
        body += text(width - 62, y + 14, number(_mean(scores.scores[r])))
    words = f"{len(scores.scores[0]) if scores.scores else 0} items, {per_column} in a column"
    svg = picture(width, 16 + high * len(scores.rows), body, scores.title, words)
    rows = tuple(
        (name, number(_mean(v)), str(sum(math.isfinite(s) for s in v)), str(len(v)))
        for name, v in zip(scores.rows, scores.scores, strict=True)
    )
    marks = [("heat", "solved"), ("faint", "not solved"), ("none", "left out"), ("", words)]
    return (
        legend(marks)
        + svg
        + details(Table(scores.title, ("recipe", "mean", "scored", "items"), rows))
    )


def draw_front(front: FrontPicture) -> str:
    """Every pair of objectives as dots with the front on top, then the hypervolume."""
    marks = [("c1", "individual"), ("c0", "on the front")]
    chosen = set(front.on_front)
    drawn = legend(marks)
    count = len(front.objectives)
    for a, b in combinations(range(count), 2):
        x = _scale([p[a] for p in front.points], WIDTH - 24, LEFT + 8)
        y = _scale([p[b] for p in front.points], TOP + 12, HEIGHT - 40)
        body = _axes(x, y, (x.low, x.high), front.objectives[a])
        body += text(LEFT, 12, front.objectives[b])
        order = sorted(range(len(front.points)), key=lambda n: n in chosen)
        for n in order:
            cx, cy = x.at(front.points[n][a]), y.at(front.points[n][b])
            kind, r = ("dot c0", 5) if n in chosen else ("dot c1 pale", 3)
            body += element("circle", cx=cx, cy=cy, r=r, class_=kind)
        title = f"{front.objectives[b]} against {front.objectives[a]}"
        words = f"{len(front.points)} individuals, {len(chosen)} on the front"
        drawn += picture(WIDTH, HEIGHT, body, title, words)
    rows = tuple((str(n), *map(number, front.points[n])) for n in front.on_front)
    drawn += details(Table("The front", ("individual", *front.objectives), _thinned(rows)))
    return drawn + draw_volume(front.hypervolumes)


def draw_volume(volumes: Values) -> str:
    """The hypervolume by generation; nothing for none."""
    if not volumes:
        return ""
    last = max(len(volumes) - 1, 1)
    y, x = _scale(volumes, TOP + 12, HEIGHT - 36), _scale([0, last], WIDTH - 16, LEFT)
    line = polyline([(x.at(n), y.at(v)) for n, v in enumerate(volumes)], "c0")
    body = _axes(x, y, (0, last), "generation", whole=True) + line + text(LEFT, 12, "hypervolume")
    svg = picture(WIDTH, HEIGHT, body, "Hypervolume by generation", "Above the run's nadir.")
    rows = tuple((str(n), number(v)) for n, v in enumerate(volumes))
    return svg + details(Table("Hypervolume", ("generation", "hypervolume"), _thinned(rows)))


def arrange(scores: ScoreMap) -> tuple["np.ndarray[tuple[int, int], np.dtype[np.float64]]", int]:
    """Items sorted by the first recipe's score, then the next one's; and the items per column."""
    table = np.array(scores.scores, dtype=np.float64).reshape(len(scores.rows), -1)
    keys = np.nan_to_num(table, nan=-1.0)[::-1]
    table = table[:, np.lexsort(-keys)] if table.size else table
    step = max(1, -(-table.shape[1] // MAX_COLUMNS))
    starts = range(0, table.shape[1], step)
    means = [[_mean(row[s : s + step].tolist()) for s in starts] for row in table]
    return np.array(means, dtype=np.float64).reshape(len(scores.rows), len(starts)), step


class _Axis:
    """A linear map from values in [low, high] to places in [start, end]."""

    def __init__(self, low: float, high: float, end: float, start: float) -> None:
        self.low, self.high, self.end, self.start = low, high, end, start

    def at(self, value: float) -> float:
        """The place of a value; what is not finite lies at the bottom."""
        share = (value - self.low) / (self.high - self.low) if math.isfinite(value) else 0.0
        return self.start + share * (self.end - self.start)


def _scale(values: Sequence[float], end: float, start: float) -> _Axis:
    finite = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high == low:
        low, high = low - 0.5, high + 0.5
    return _Axis(low, high, end, start)


def _axes(x: _Axis, y: _Axis, ends: tuple[float, float], name: str, *, whole: bool = False) -> str:
    body = ""
    for value in ticks(y.low, y.high):
        at = y.at(value)
        body += element("line", x1=LEFT, x2=WIDTH - 12, y1=at, y2=at, class_="grid")
        body += text(LEFT - 6, at + 4, number(value), anchor="end")
    for value in ticks(*ends, whole=whole):
        body += text(x.at(value), y.start + 16, number(value), anchor="middle")
    return body + text((LEFT + WIDTH) / 2, y.start + 31, name, anchor="middle")


def _spans(values: Sequence[float]) -> list[tuple[int, int, float]]:
    """(first column, columns, value): single ones, or runs of equals where there are many."""
    if len(values) <= MAX_SINGLE_COLUMNS:
        return [(n, 1, value) for n, value in enumerate(values)]
    spans, start = [], 0
    for value, run in groupby(values, key=lambda value: None if math.isnan(value) else value):
        length = len(list(run))
        spans.append((start, length, math.nan if value is None else value))
        start += length
    return spans


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Four to ten round numbers from low to high (fewer if they must be whole)."""
    unit = 10.0 ** math.floor(math.log10((high - low) / 4))
    step = next(unit * k for k in (1, 2, 5, 10) if (high - low) / (unit * k) < 8)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if math.isfinite(v)]
    return math.fsum(known) / len(known) if known else math.nan


def _thinned(rows: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    return rows[:: max(1, -(-len(rows) // MAX_TABLE_ROWS))]


def _said(series: Series) -> str:
    values: Values = series.best_so_far
    return f"From {number(values[0])} to {number(values[-1])} in {len(values)} generations."
