"""The scaling benchmark's numbers: points with repetitions, growth exponents, Markdown tables."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, TypedDict

from benchmarks.serve_table import spread

DECODE, PREFILL = "decode tokens/s", "prefill tokens/s"
STEP, WEIGHTS, KV, RESIDENT = "ms per step", "weights, MB", "KV cache, MB", "process, MB"
_DIGITS = {DECODE: 1, PREFILL: 0, STEP: 2, WEIGHTS: 1, KV: 1, RESIDENT: 0}


class Point(TypedDict):
    """All repetitions at one place of a curve; numbers: by name of the measure."""

    series: str
    x: float
    numbers: dict[str, list[float]]


class Sharing(TypedDict):
    """Bytes of one recipe or of several that are loaded together.

    by_recipe: what each holds, shared or not; total: what is held, shared weights counted once;
    reference: what `total` is compared with, in bytes and words.
    """

    name: str
    by_recipe: list[int]
    total: int
    reference: int
    compared: str


class Prefix(TypedDict):
    """Seconds to the first token over HTTP, by fresh system prompt."""

    num_system_tokens: list[int]
    first_s: list[float]
    second_s: list[float]


class Form(TypedDict, total=False):
    """What was measured with one form of the weights."""

    cases: dict[str, list[Point]]
    sharing: list[Sharing]
    prefix: Prefix


class Result(TypedDict):
    """The whole file; forms: by float32 or int8."""

    benchmark: str
    model: str
    machine: dict[str, Any]
    commit: str | None
    torch: str
    forms: dict[str, Form]


@dataclass(frozen=True)
class Growth:
    """Exponents of y ~ x^e: least squares over all points, and between the last two."""

    fit: float
    last: float


def growth(points: Sequence[tuple[float, float]]) -> Growth | None:
    """None for fewer than two places or what is not above zero."""
    places = sorted({(x, y) for x, y in points if x > 0 and y > 0})
    logs = [(math.log(x), math.log(y)) for x, y in places]
    if len({x for x, _ in logs}) < 2:
        return None
    mean_x, mean_y = fmean(x for x, _ in logs), fmean(y for _, y in logs)
    covered = sum((x - mean_x) ** 2 for x, _ in logs)
    fit = sum((x - mean_x) * (y - mean_y) for x, y in logs) / covered
    (x1, y1), (x2, y2) = logs[-2:]
    return Growth(fit, (y2 - y1) / (x2 - x1) if x2 > x1 else math.nan)


def costs(name: str, numbers: Sequence[float]) -> list[float]:
    """What should grow no faster than linearly: a rate becomes seconds per token."""
    return [1 / value for value in numbers] if name in (DECODE, PREFILL) else list(numbers)


def curve(points: Sequence[Point], series: str, name: str) -> list[tuple[float, list[float]]]:
    """(x, repetitions) of one measure along a series, where it was measured."""
    found = [(p["x"], p["numbers"][name]) for p in points if p["series"] == series]
    return sorted((x, numbers) for x, numbers in found if numbers)


def series_of(points: Sequence[Point]) -> list[str]:
    """Names in the order they were measured."""
    return list(dict.fromkeys(point["series"] for point in points))


def format_case(title: str, x_name: str, points: Sequence[Point]) -> Iterator[str]:
    """A table, and below it how every measure grows."""
    names = list(dict.fromkeys(name for point in points for name in point["numbers"]))
    yield f"| {title} | {x_name} | " + " | ".join(names) + " |"
    yield "|---" * (2 + len(names)) + "|"
    for point in points:
        numbers = point["numbers"]
        cells = [spread(numbers.get(name, []), _DIGITS[name]) for name in names]
        yield f"| {point['series']} | {point['x']:g} | " + " | ".join(cells) + " |"
    yield ""
    for series in series_of(points):
        exponents = "; ".join(_exponents(points, series, names))
        yield f"{series}: grows as x^e, e over all points (between the last two): {exponents}."


def format_sharing(rows: Sequence[Sharing]) -> Iterator[str]:
    """Bytes by recipe and in total."""
    yield (
        "| recipes | each by itself, MB | apart, MB | together, MB | together / largest "
        "| together / reference | reference |"
    )
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        each = [number / 1e6 for number in row["by_recipe"]]
        ratio = row["total"] / row["reference"]
        yield (
            f"| {row['name']} | {spread(each, 1)} | {sum(each):.1f} | {row['total'] / 1e6:.1f} "
            f"| {row['total'] / max(row['by_recipe']):.2f} | {ratio:.2f} | {row['compared']} |"
        )


def format_prefix(found: Prefix) -> str:
    """One line."""
    pairs = zip(found["second_s"], found["first_s"], strict=True)
    ratios = [second / first for second, first in pairs]
    first, second = ([1e3 * value for value in found[key]] for key in ("first_s", "second_s"))
    return (
        f"System prompt of {min(found['num_system_tokens'])} to {max(found['num_system_tokens'])} "
        f"tokens, {len(ratios)} fresh ones: first token after {spread(first, 0)} ms, of the next "
        f"request with the same system prompt after {spread(second, 1)} ms: "
        f"{spread(ratios, 3)} of it (aim: 0.1)."
    )


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Write beside and rename: whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_suffix(".part")
    work.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    os.replace(work, file)


def load_json(file: Path, benchmark: str) -> dict[str, Any]:
    """What `write_json` wrote. Raises ValueError if it is another benchmark's."""
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if document.get("benchmark") != benchmark:
        raise ValueError(f"{file} is not a result of benchmarks.{benchmark}")
    return document


def _exponents(points: Sequence[Point], series: str, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        if name == RESIDENT:
            continue
        present = [point for point in points if name in point["numbers"]]
        found = curve(present, series, name)
        grown = growth([(x, median(costs(name, numbers))) for x, numbers in found])
        if grown is not None:
            words = f"time per {name.split()[0]} token" if name in (DECODE, PREFILL) else name
            yield f"{words} {grown.fit:.2f} ({grown.last:.2f})"
