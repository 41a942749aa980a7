"""`make reproduce` in its quick form: every search, the table and the page, and no work twice."""

from pathlib import Path

import pytest

from benchmarks import reproduce
from benchmarks.reproduce_table import CHAT, TEST, Row, verdicts
from evoserve.manifest.load import load_manifest
from search.store import Store


def test_the_quick_form_writes_table_and_page_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, docs = tmp_path / "work", tmp_path / "reproduction.md"
    arguments = ["--quick", "--seeds", "3", "--folder", str(folder), "--docs", str(docs)]
    reproduce.main(arguments)
    text, page = docs.read_text("utf-8"), docs.with_suffix(".html").read_text("utf-8")
    assert "these numbers mean nothing" in text
    for label in ("| base |", "| TIES, weights 1", "| PS, best | 3 |", "| DFS, mean | 3 |"):
        assert label in text
    assert "| PS+DFS, best | 3 |" in text
    assert "| NSGA-II, front-000 | 3 |" in text
    assert page.count("<h1>") == 5
    merged = load_manifest(folder / "recipes/mini-ja-ps-dfs-3-best.json")
    evolved = load_manifest(folder / "recipes/mini-ja-ps-3-best.json")
    assert list(merged.merges.values()) == list(evolved.merges.values())
    before = count(folder)
    reproduce.main(arguments)
    assert count(folder) == before
    table = docs.read_text("utf-8")
    assert table[table.index("## What came out") :] == text[text.index("## What came out") :]


def count(folder: Path) -> int:
    store = Store(folder / "reproduction.sqlite")
    found = store._db.execute("SELECT count(*) FROM evaluation").fetchone()[0]
    store.close()
    return int(found)


def row(label: str, kind: str, num_right: int, seed: int | None = None) -> Row:
    scores = tuple(float(n < num_right) for n in range(10))
    return Row(label, kind, seed, {TEST: scores, CHAT: scores})


@pytest.mark.parametrize(
    ("source", "plain", "evolved", "over", "expected"),
    [
        (2, 3, (5, 5), (5, 6), [True, True, True, True]),
        (4, 4, (5, 5), (5, 4), [False, False, False, True]),
        (2, 3, (4, 4), (4, 4), [True, False, True, True]),
    ],
)
def test_verdicts_follow_the_numbers(
    source: int, plain: int, evolved: tuple[int, int], over: tuple[int, int], expected: list[bool]
) -> None:
    rows = [row("a", "source", source), row("b", "source", 0), row("m", "plain", plain)]
    for seed in (0, 1):
        rows.append(row("PS, best", "evolved", evolved[seed], seed))
        rows.append(row("PS, mean", "evolved", 0, seed))
        rows.append(row("DFS, best", "evolved", 5, seed))
        rows.append(row("PS+DFS, best", "evolved", over[seed], seed))
    found = list(verdicts(rows))
    assert [is_true for is_true, _ in found] == expected
    assert "40.0%" in found[0][1] if source == 4 else "20.0%" in found[0][1]
