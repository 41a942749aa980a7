"""The reproduction's numbers as a page of Markdown: what came out, and what should have."""

import math
import platform
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from evoserve.manifest.load import write_text
from search.tasks.interval import interval95

TEST, SEARCH, TRAIN, CHAT = "mini-ja-test", "mini-ja", "mini-ja-train", "chat-ja-test"
SOURCE_LIMIT, MARGIN = 0.30, 0.15
_COLUMNS = {
    TRAIN: "search items, training templates",
    SEARCH: "search items, other templates",
    TEST: "test items",
    CHAT: "Japanese chat (ROUGE-L)",
}


@dataclass(frozen=True)
class Row:
    """A model of the table. kind: source, plain, evolved or front; scores: per item, by task."""

    label: str
    kind: str
    seed: int | None
    scores: dict[str, tuple[float, ...]]


def write_docs(file: Path, rows: Sequence[Row], *, wall_s: float, is_quick: bool) -> None:
    """Write the page, beside and then renamed."""
    write_text(file, "\n".join(_page(rows, wall_s, is_quick)) + "\n")


def verdicts(rows: Sequence[Row]) -> Iterator[tuple[bool, str]]:
    """(came out, the claim with its numbers) for each claim of the paper in miniature."""
    sources = _of_kind(rows, "source")
    best_source = max(sources, key=_test)
    yield (
        _test(best_source) < SOURCE_LIMIT,
        f"No source is good at Japanese word problems: the best, `{best_source.label}`, has "
        f"{_percent(_test(best_source))} (should be below {_percent(SOURCE_LIMIT)}).",
    )
    best_plain = max(_of_kind(rows, "plain"), key=_test)
    evolved = {label: _mean_over_seeds(rows, label) for label in ("PS", "DFS", "PS+DFS")}
    gain = evolved["PS"] - _test(best_plain)
    yield (
        gain >= MARGIN,
        f"Evolved PS beats the best plain merge ({best_plain.label}, "
        f"{_percent(_test(best_plain))}): {_percent(evolved['PS'])} over the seeds, "
        f"{100 * gain:+.1f} points (should be {100 * MARGIN:.0f} or more).",
    )
    yield (
        evolved["PS+DFS"] >= evolved["PS"],
        f"PS+DFS is not below PS: {_percent(evolved['PS+DFS'])} against "
        f"{_percent(evolved['PS'])} over the seeds.",
    )
    yield (
        evolved["DFS"] > _test(best_source),
        f"DFS alone beats the best source: {_percent(evolved['DFS'])} against "
        f"{_percent(_test(best_source))}.",
    )


def _page(rows: Sequence[Row], wall_s: float, is_quick: bool) -> Iterator[str]:
    yield "# The paper in miniature"
    yield ""
    if is_quick:
        yield "**A quick run over a few items, to test the program: these numbers mean nothing.**"
        yield ""
    yield (
        "Written by `make reproduce` as the numbers came out: the table of "
        "[the paper](https://arxiv.org/abs/2403.13187) on the "
        "[mini zoo](../models/mini/README.md), word problems in Japanese that must be "
        "answered in Japanese. Percent, "
        "95% Wilson interval in brackets; `best` is the best training trial, as in the paper, "
        "`mean` the optimizer's final mean. Search items are the ones that were searched on, and "
        "flatter what was selected on them; test items share neither templates nor numbers with "
        "them."
    )
    yield ""
    yield from _machine(wall_s)
    yield ""
    yield "## What came out"
    yield ""
    for is_true, text in verdicts(rows):
        yield f"- {'Yes' if is_true else '**No**'}. {text}"
    yield ""
    yield from _losses(rows)
    yield ""
    yield from _table(rows, ("source", "plain", "evolved"))
    yield ""
    yield "## Two objectives"
    yield ""
    yield (
        "NSGA-II over the same genome, Japanese word problems against ROUGE-L on Japanese chat "
        "without sums: every recipe of the front, by seed."
    )
    yield ""
    yield from _table(rows, ("front",))


def _losses(rows: Sequence[Row]) -> Iterator[str]:
    """How much of the evolved merge's lead is left on items that were not searched on."""
    plain = max(_of_kind(rows, "plain"), key=_test)
    evolved = [row for row in rows if row.label == "PS, best"]
    leads = []
    for task in (TRAIN, SEARCH, TEST):
        mean = _average(_average(row.scores[task]) for row in evolved)
        leads.append(f"{100 * (mean - _average(plain.scores[task])):+.1f}")
    yield (
        f"Lead of evolved PS over {plain.label}, in points: {leads[0]} on the search items with "
        f"training templates, {leads[1]} on those with other templates, {leads[2]} on test items. "
        "Between the second and the third lie what was learned from the search items alone, and "
        "chance: an interval of 100 items is 20 points wide, one of 300 about 11."
    )


def _machine(wall_s: float) -> Iterator[str]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    at = f", commit {commit.stdout.strip()}" if commit.returncode == 0 else ""
    yield (
        f"{platform.machine()}, torch {torch.__version__}, cma {version('cma')}, pymoo "
        f"{version('pymoo')}{at}. This run took {wall_s / 60:.1f} minutes; what the store knew "
        "already was not done again."
    )


def _table(rows: Sequence[Row], kinds: Sequence[str]) -> Iterator[str]:
    shown = [row for row in rows if row.kind in kinds]
    tasks = [task for task in _COLUMNS if any(task in row.scores for row in shown)]
    yield "| model | seed | " + " | ".join(_COLUMNS[task] for task in tasks) + " |"
    yield "|---|---|" + "---|" * len(tasks)
    for row in shown:
        seed = "" if row.seed is None else str(row.seed)
        cells = (_cell(row.scores.get(task)) for task in tasks)
        yield f"| {row.label} | {seed} | " + " | ".join(cells) + " |"


def _cell(scores: tuple[float, ...] | None) -> str:
    if not scores:
        return ""
    low, high = interval95(scores)
    return f"{100 * _average(scores):.1f} [{100 * low:.1f}, {100 * high:.1f}] n={len(scores)}"


def _mean_over_seeds(rows: Sequence[Row], label: str) -> float:
    return _average([_test(row) for row in rows if row.label == f"{label}, best"])


def _of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    return [row for row in rows if row.kind == kind]


def _test(row: Row) -> float:
    return _average(row.scores[TEST])


def _average(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
