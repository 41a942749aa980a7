"""The dry run: the paper's own searches resolve without weights, and nothing is written."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from search_cases import ROOT, write_small
from typer.testing import CliRunner

from evoserve import __version__
from evoserve.errors import ConfigError, InputError, SourceError
from evoserve.manifest.load import save_manifest
from search.check import check_search
from search.cli import app
from search.config import load_config
from search.genome.baselines import dare_ties
from search.setup import build_pool

SEARCHES = ROOT / "models/searches"
DATA = ROOT.parent / "shared/data"


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """The shipped configs beside files of the right shape; the real ones are not ours to ship."""
    folder = tmp_path / "models/searches"
    folder.mkdir(parents=True)
    for file in SEARCHES.glob("paper-*.toml"):
        shutil.copy(file, folder)
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"prompt": f"問{n}", "answer": str(n), "language": "ja"} for n in range(1319)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (data / "gsm8k_test_ja.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = "".join(f"問{n}\t{n}\n" for n in range(250))
    (data / "mgsm_ja.tsv").write_text(table, encoding="utf-8")
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_the_papers_ps_search_has_the_papers_numbers(paper: Path) -> None:
    before = files(paper.parents[1])
    lines = check_search(paper / "paper-ps.toml", num_layers=32)
    assert files(paper.parents[1]) == before
    assert lines[4:7] == [
        "genome ps: 6 dimensions",
        "optimizer cma: population 9",
        "budget: 112 generations, 1008 individuals",
    ]
    assert [line.split(":")[0] for line in lines[7:]] == [
        "task gsm8k-ja (search, counted)",
        "task mgsm-ja (test, held out)",
    ]
    assert "1069 items" in lines[7]
    assert "250 items" in lines[8]
    assert all("at most 1024 tokens, reply language required" in line for line in lines[7:])


@pytest.mark.parametrize("name", ["paper-dfs", "paper-ps-dfs"])
def test_the_papers_dfs_searches_have_the_papers_numbers(paper: Path, name: str) -> None:
    recipes = paper.parents[1] / "recipes"
    recipes.mkdir()
    config = load_config(paper / "paper-ps.toml")
    pool = build_pool(config, config.sources, dict.fromkeys(config.sources, 32))
    merge = dare_ties(pool, "mistral", ["shisa", "wizardmath", "abel"])
    save_manifest(merge, recipes / "paper-ps-best.json")
    lines = check_search(paper / f"{name}.toml", num_layers=32)
    assert "genome dfs: 4289 dimensions" in lines  # the embedding has a scale, too
    assert "optimizer cma: population 128" in lines
    assert "budget: 100 generations, 12800 individuals" in lines
    counts = [line.split(": ")[1].split(" ")[0] for line in lines if line.startswith("task ")]
    assert counts == ["869", "200", "250"]


def test_a_missing_source_and_a_missing_file_are_named(paper: Path) -> None:
    with pytest.raises(SourceError, match=r"source 'mistral'.*number of layers"):
        check_search(paper / "paper-ps.toml")
    with pytest.raises(ConfigError, match=r"paper-ps-best\.json"):
        check_search(paper / "paper-ps-dfs.toml", num_layers=32)
    (paper.parents[1] / "data/mgsm_ja.tsv").unlink()
    with pytest.raises(InputError, match=r"tasks\.mgsm-ja.*mgsm_ja\.tsv"):
        check_search(paper / "paper-ps.toml", num_layers=32)


def test_a_recipe_of_several_merges_is_no_merge(paper: Path) -> None:
    recipes = paper.parents[1] / "recipes"
    recipes.mkdir()
    shutil.copy(ROOT / "models/recipes/mini-dfs.json", recipes / "paper-ps-best.json")
    with pytest.raises(ConfigError, match=r"genome\.merges\.evolved: .* holds 0 merges"):
        load_config(paper / "paper-ps-dfs.toml")


@pytest.mark.skipif(not DATA.is_dir(), reason="the data files are not here")
def test_the_real_split_is_gsm8k_without_mgsm(paper: Path) -> None:
    """In English, where both are at hand: the search set shares no question with MGSM's items."""
    text = (DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    mgsm = [line.split("\t") for line in (DATA / "mgsm_en.tsv").read_text("utf-8").splitlines()]
    assert (len(rows), len(mgsm)) == (1319, 250)
    answers = [row["answer"].rpartition("#### ")[2].replace(",", "") for row in rows]
    assert answers[:250] == [answer.replace(",", "") for _, answer in mgsm]
    items = [
        json.dumps({"prompt": row["question"], "answer": answer, "language": "ja"})
        for row, answer in zip(rows, answers, strict=True)
    ]
    data = paper.parents[1] / "data"
    (data / "gsm8k_test_ja.jsonl").write_text("\n".join(items), encoding="utf-8")
    shutil.copy(DATA / "mgsm_en.tsv", data / "mgsm_ja.tsv")
    assert any(
        "1069 items" in line for line in check_search(paper / "paper-ps.toml", num_layers=32)
    )


def test_the_command_prints_and_writes_nothing(tmp_path: Path) -> None:
    config = write_small(tmp_path)
    shown = CliRunner().invoke(app, ["check", str(config)])
    assert shown.exit_code == 0, shown.output
    assert "genome ps: 6 dimensions\noptimizer cma: population 4\n" in shown.output
    assert files(tmp_path) == [config]
    assert CliRunner().invoke(app, ["--version"]).output == f"evosearch {__version__}\n"


def test_the_installed_script_finds_the_builtin_tasks() -> None:
    """Unlike `python -m`, a console script does not look in the working directory by itself."""
    script = Path(sys.executable).with_name("evosearch")
    command = [str(script), "check", "models/searches/mini-ps.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "task mini-en (search, counted): 100 items" in done.stdout
