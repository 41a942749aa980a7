"""The drawn architecture is the real one: names resolve, the core is torch-free, files fit."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from evoserve.manifest.load import parse_manifest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("evoserve/**/*.py"), *ROOT.glob("search/**/*.py")])
TORCH_FREE = (
    "evoserve.engine.scheduler",
    "evoserve.engine.block_manager",
    "evoserve.engine.sequence",
    "evoserve.manifest.load",
    "evoserve.tokenizer",
    "search.genome.joint",
    "search.optimizers.build",
    "search.store",
)


def resolve(dotted: str) -> object:
    """The object behind a dotted name. Raises ImportError or AttributeError."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            found = getattr(found, name)
        return found
    raise ImportError(dotted)


def test_every_name_in_the_architecture_exists() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`(evoserve(?:\.[A-Za-z_]+)+)`", text))
    assert len(names) >= 20
    for name in names:
        resolve(name)


def test_every_hop_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = text[text.index("client -HTTP->") : text.index("## The tree")]
    names = set(re.findall(r"\b((?:api|engine)\.[a-z_]+)", drawn))
    assert {"api.routes", "engine.core", "engine.worker"} <= names
    for name in names:
        resolve(f"evoserve.{name}")


def test_the_readme_s_recipe_is_valid() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    recipe = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert recipe is not None
    assert parse_manifest(recipe.group(1)).steps(6)[4].model == "ja"


@pytest.mark.parametrize("file", re.findall(r"\]\(([\w/.]+)\)", (ROOT / "README.md").read_text()))
def test_links_lead_somewhere(file: str) -> None:
    assert (ROOT / file).exists()


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_core_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_fit_a_reader(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name
