"""The specification: its examples are valid, its code runs and prints what it says."""

import contextlib
import io
import json
import os
import re
from pathlib import Path

import jsonschema
import pytest

from evoserve.manifest.canonical import canonical_json
from evoserve.manifest.load import build_manifest, json_schema
from evoserve.manifest.mergekit_import import import_mergekit
from evoserve.manifest.methods import METHOD_NAMES, OPTION_DEFAULTS, TRAITS
from evoserve.manifest.schema import Manifest

DOCS = Path(__file__).parents[3] / "docs"
SCHEMA = DOCS / "manifest.schema.json"
SPECIFICATION = (DOCS / "manifest.md").read_text(encoding="utf-8")
MERGEKIT = (DOCS / "mergekit.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(text) if kind == language]


def test_the_published_schema_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema()


@pytest.mark.parametrize("text", [*blocks(SPECIFICATION, "json"), *blocks(MERGEKIT, "json")])
def test_examples_are_valid_manifests(text: str) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    build_manifest(json.loads(text))


def test_python_examples_print_what_the_text_says(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(blocks(SPECIFICATION, "json")[1], encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(blocks(MERGEKIT, "yaml")[0], encoding="utf-8")
    for document in (SPECIFICATION, MERGEKIT):
        pairs = re.findall(
            r"^```python\n(.*?)^```\n+```text\n(.*?)^```$", document, re.MULTILINE | re.DOTALL
        )
        assert len(pairs) == len(blocks(document, "python"))
        for code, expected in pairs:
            assert _printed(code, tmp_path) == expected


def test_the_hashed_bytes_of_the_specification_are_the_example_s() -> None:
    manifest = build_manifest(json.loads(blocks(SPECIFICATION, "json")[1]))
    assert canonical_json(manifest).decode() + "\n" in blocks(SPECIFICATION, "text")


def test_the_imported_example_is_what_the_text_says() -> None:
    counts = {"mini/base": 4, "mini/ja": 4}
    manifest = import_mergekit(blocks(MERGEKIT, "yaml")[0], name="ja-math", num_layers=counts)
    assert manifest == build_manifest(json.loads(blocks(MERGEKIT, "json")[0]))


def test_every_field_stands_in_the_specification() -> None:
    for field in Manifest.model_fields:
        assert f"| `{field}` |" in SPECIFICATION


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_the_table_of_methods_is_that_of_the_code(method: str) -> None:
    (row,) = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in SPECIFICATION.splitlines()
        if line.startswith("| `") and f"`{method}`" in line.split("|")[1]
    ]
    traits = TRAITS[method]
    least, most = traits.models
    assert row[1] == traits.base
    assert row[2] == (str(least) if least == most else f"{least} or more")
    words = row[3].split(", ") if row[3] else []
    assert {word.strip("*") for word in words} == traits.coefficients
    assert {word.strip("*") for word in words if "**" in word} == traits.required
    options = dict(re.findall(r"`(\w+)` ([\w.-]+)", row[4]))
    expected = {name: _spelt(value) for name, value in OPTION_DEFAULTS[method].items()}
    assert options == expected


def _spelt(value: object) -> str:
    return {"1.0": "1", "1e-05": "1e-5"}.get(str(value), str(value).lower())


def _printed(code: str, folder: Path) -> str:
    before, out = Path.cwd(), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(code, "<docs>", "exec"), {})
    finally:
        os.chdir(before)
    return out.getvalue()
