"""`evoserve verify --search`: real scores come out again, tampered ones are found."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evoserve.cli.main import main
from evoserve.manifest.load import load_manifest, parse_manifest, save_manifest
from evoserve.manifest.parts import EvaluationSpec
from search.config import load_config
from search.evaluate import Evaluator
from search.executors.protocol import evaluate_one
from search.opened import open_sources
from search.setup import build_settings, build_source_locator, build_tasks

ROOT = Path(__file__).parents[3]
MINI = ROOT / "models" / "mini"
CONFIG = f"""
name = "r"
evaluations = 4
sources = {{ math = "{MINI / "math"}" }}
objectives = [{{ task = "sums" }}]
engine = {{ threads = 1 }}
genome = {{ kind = "dfs", dfs = {{ models = ["math"] }} }}
tasks = [{{ name = "sums", builtin = "mini", split = "search", language = "en", count = COUNT }}]
"""
Verify = Callable[[Path, Path], tuple[int, str, str]]


@pytest.fixture
def verify(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Call `evoserve verify RECIPE --search CONFIG`: (exit code, stdout, stderr)."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "400")

    def call(recipe: Path, config: Path) -> tuple[int, str, str]:
        arguments = ["evoserve", "verify", str(recipe), "--search", str(config)]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(recipe with its real scores, config)."""
    folder = tmp_path_factory.mktemp("rescore")
    file, recipe = folder / "search.toml", folder / "recipe.json"
    file.write_text(CONFIG.replace("COUNT", "8"))
    config = load_config(file)
    task = build_tasks(config, folder).all[0]
    sources = open_sources(config.sources, build_source_locator(config, folder))
    document = {"format": "evoserve/1", "name": "r", "sources": {"math": {"model": ""}}}
    document["sources"] = {"math": {"model": str(MINI / "math")}}
    manifest = parse_manifest(json.dumps(document))
    with Evaluator(sources, build_settings(config, folder)) as evaluator:
        found = evaluate_one(evaluator, manifest, task)
    items = found.scores.tolist()
    entry = EvaluationSpec(
        task="sums",
        metric=task.metric,
        score=sum(items) / len(items),
        num_items=len(items),
        items=tuple(items),
        task_digest=task.digest,
        outputs_digest=found.outputs,
    )
    save_manifest(manifest.model_copy(update={"evaluation": (entry,)}), recipe)
    return recipe, file


def tampered(recipe: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the recipe with another evaluation entry."""
    manifest = load_manifest(recipe)
    entry = manifest.evaluation[0].model_copy(update=changes)
    file = folder / "tampered.json"
    save_manifest(manifest.model_copy(update={"evaluation": (entry,)}), file)
    return file


def test_real_scores_verify(scored: tuple[Path, Path], verify: Verify) -> None:
    code, out, _ = verify(*scored)
    assert code == 0
    assert "sums: same, all 8 items" in out


def test_a_tampered_item_is_found(
    scored: tuple[Path, Path], verify: Verify, tmp_path: Path
) -> None:
    items = list(load_manifest(scored[0]).evaluation[0].items or ())
    items[3] = 1 - items[3]
    code, out, _ = verify(tampered(scored[0], tmp_path, items=tuple(items)), scored[1])
    assert code == 1
    assert "sums: 1 of 8 items differ" in out


def test_a_tampered_mean_is_found(
    scored: tuple[Path, Path], verify: Verify, tmp_path: Path
) -> None:
    code, out, _ = verify(tampered(scored[0], tmp_path, score=0.987), scored[1])
    assert code == 1
    assert "score 0.987 in the manifest" in out


def test_tampered_outputs_are_found(
    scored: tuple[Path, Path], verify: Verify, tmp_path: Path
) -> None:
    other = "sha256:" + "0" * 64
    code, out, _ = verify(tampered(scored[0], tmp_path, outputs_digest=other), scored[1])
    assert code == 1
    assert "outputs differ" in out


def test_a_changed_task_is_found(scored: tuple[Path, Path], verify: Verify, tmp_path: Path) -> None:
    config = tmp_path / "search.toml"
    config.write_text(CONFIG.replace("COUNT", "7"))
    code, out, _ = verify(scored[0], config)
    assert code == 1
    assert "has the digest sha256:" in out


def test_a_recipe_without_scores_fails(
    scored: tuple[Path, Path], verify: Verify, tmp_path: Path
) -> None:
    bare = tmp_path / "bare.json"
    save_manifest(load_manifest(scored[0]).model_copy(update={"evaluation": ()}), bare)
    code, out, _ = verify(bare, scored[1])
    assert code == 1
    assert "holds no scores" in out


def test_a_missing_extra_is_one_line(
    scored: tuple[Path, Path], verify: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] in ("search", "cma")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cma", None)
    code, _, err = verify(*scored)
    assert code == 2
    assert "evoserve[search]" in err


def test_the_installed_script_verifies_too(scored: tuple[Path, Path]) -> None:
    """It starts with another search path than a test does, and has to find the builtin tasks."""
    recipe, config = scored
    script = Path(sys.executable).with_name("evoserve")
    command = [str(script), "verify", str(recipe), "--search", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "sums: same, all 8 items" in done.stdout
