"""`evosearch report` on real runs of the mini zoo."""

import json
import re
from pathlib import Path

import pytest
from search_cases import write_small
from typer.testing import CliRunner

from search.cli import app
from search.progress import Lines
from search.report.gather import gather_report
from search.session import load_order, run_order
from search.store import Store, StoreError


def test_a_run_becomes_one_page_that_fetches_nothing(tmp_path: Path) -> None:
    config, file, page = write_small(tmp_path, generations=1), tmp_path / "a.sqlite", tmp_path / "p"
    run_order(load_order(config, file), Lines(), lambda: False)
    arguments = ["report", "mini-ps", "--store", str(file), "-o", str(page)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    before = page.read_text(encoding="utf-8")
    assert "not scored" in before
    assert CliRunner().invoke(app, [*arguments, "--baselines", str(config)]).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "not scored" not in text
    assert "DARE-TIES" in text
    assert "weights of mean" in text
    bare = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|<script|<link|url\(|src=", bare)


def test_a_run_of_other_versions_has_no_mean(tmp_path: Path) -> None:
    file = tmp_path / "a.sqlite"
    run_order(load_order(write_small(tmp_path, generations=1), file), Lines(), lambda: False)
    store = Store(file)
    ((_, _, text),) = store.runs()
    fields = json.loads(text)
    fields["versions"]["cma"] = "0.1"
    store._db.execute("UPDATE run SET config = ?", (json.dumps(fields),))
    report = gather_report(store, "mini-ps")
    assert "another version of cma" in report.note
    assert not any("mean" in str(getattr(part, "title", "")) for part in report.parts)
    store._db.execute("DELETE FROM generation")
    with pytest.raises(StoreError, match="no whole generation"):
        gather_report(store, "mini-ps")
    with pytest.raises(StoreError, match="no run 'other'"):
        gather_report(store, "other")
    store.close()
