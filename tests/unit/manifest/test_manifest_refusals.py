"""Bad manifests: each is one ManifestError, in one line, that names the place in the file."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evoserve.errors import ManifestError
from evoserve.manifest.document import MAX_DOCUMENT_CHARS, MAX_YAML_CHARS
from evoserve.manifest.load import build_manifest, load_manifest, parse_manifest, write_text

Keys = tuple[str | int, ...]

VALID: dict[str, Any] = {
    "format": "evoserve/1",
    "name": "x",
    "sources": {"a": {"model": "m/a"}, "b": {"model": "m/b"}, "c": {"model": "m/c"}},
    "merges": {
        "ps": {
            "method": "dare_ties",
            "base": "a",
            "groups": ["embed", "layers", "head"],
            "weights": {"b": [1, 1, 1], "c": 0.5},
            "densities": {"b": 0.5},
        },
        "top": {"method": "slerp", "base": "ps", "models": ["b"], "t": 0.5},
    },
    "path": ["top[0:4]", "b[1]", "top[4:6]"],
    "scaling": {"matrix": [["top[3]", "b[1]", 0.9]]},
}
PS = ("merges", "ps")

REPLACED: list[tuple[Keys, object, str]] = [
    (("wieghts",), 1, "wieghts: unknown key; known: format, name"),
    (("sources", "a", "modle"), "x", "sources.a.modle: unknown key; known: model, revision"),
    ((*PS, "options"), {"lambda_": 1.0}, "merges.ps.options.lambda_: unknown key"),
    (("a\nb",), 1, r'"a\nb": unknown key'),
    (("format",), "evoserve/2", "format: should be 'evoserve/1' (got 'evoserve/2')"),
    (("name",), "two words", "name: should match pattern"),
    (("sources",), {}, "sources: should have at least 1 item"),
    (("sources", "a"), "m/a", "sources.a: must be an object, not text (got 'm/a')"),
    (("sources", "a", "adapter"), {}, "sources.a.adapter.model: is required"),
    (("sources", "ps"), {"model": "x"}, "merges.ps: 'ps' is also the name of a source"),
    ((*PS, "base"), "zz", "merges.ps.base: unknown model 'zz'; known: a, b, c, ps, top"),
    ((*PS, "base"), None, "merges.ps.base: dare_ties needs a base model"),
    ((*PS, "weights", "zz"), 1, "merges.ps.weights: unknown model 'zz'"),
    ((*PS, "models"), ["b", "zz"], "merges.ps.models: unknown model 'zz'"),
    ((*PS, "models"), ["b", "b"], "merges.ps.models: a model is listed twice"),
    ((*PS, "base"), "top", "merges: merges form a cycle: "),
    ((*PS, "base"), "ps", "merges: merges form a cycle: ps -> ps"),
    ((*PS, "method"), "dare", "merges.ps.method: should be 'linear', "),
    ((*PS, "weights", "b"), "x", "merges.ps.weights.b: must be a number or a list, not text"),
    ((*PS, "weights", "b"), [1, "x", 1], "merges.ps.weights.b[1]: must be a number, not text"),
    ((*PS, "weights", "b"), [1, 1], "merges.ps.weights.b: has 2 numbers for 3 groups"),
    ((*PS, "weights", "b"), 1e5, "merges.ps.weights.b: weight 100000.0 of model 'b' must be"),
    ((*PS, "weights", "b"), float("nan"), "merges.ps.weights.b: nan is not a finite number"),
    ((*PS, "weights", "b"), float("inf"), "merges.ps.weights.b: inf is not a finite number"),
    ((*PS, "weights", "b"), True, "merges.ps.weights.b: must be a number or a list"),
    (
        (*PS, "densities", "b"),
        [1, 1.3, 1],
        "merges.ps.densities.b[1]: density 1.3 of model 'b' must be in (0, 1]",
    ),
    ((*PS, "densities", "b"), 0, "merges.ps.densities.b: density 0.0 of model 'b'"),
    ((*PS, "densities", "a"), 1, "merges.ps.densities.a: 'a' is not merged here; models: b, c"),
    ((*PS, "epsilons"), {"b": 0.1}, "merges.ps.epsilons: dare_ties does not use 'epsilons'"),
    ((*PS, "t"), 0.5, "merges.ps.t: dare_ties does not use 't'"),
    ((*PS, "options"), {"tol": 1}, "merges.ps.options.tol: dare_ties does not use option 'tol'"),
    ((*PS, "options"), {"lambda": 1e6}, "merges.ps.options.lambda: should be less than"),
    ((*PS, "seed"), 2**70, "merges.ps.seed: should be less than 9007199254740992"),
    ((*PS, "seed"), 1.5, "merges.ps.seed: must be an integer"),
    ((*PS, "groups"), [], "merges.ps.groups: is empty"),
    ((*PS, "groups"), ["all", "all", "embed"], "merges.ps.groups: a group is listed twice"),
    ((*PS, "groups", 1), "layers[0:999999999]", "merges.ps.groups[1]: 'layers[0:999999999]'"),
    ((*PS, "groups", 1), "layers[3:3]", "merges.ps.groups[1]: 'layers[3:3]' is empty"),
    ((*PS, "groups", 1), "blocks", "merges.ps.groups[1]: 'blocks' is not a group"),
    ((*PS, "groups", 1), "embed[0:1]", "merges.ps.groups[1]: 'embed[0:1]': only layers"),
    (("merges", "top", "t"), 1.5, "merges.top.t: t 1.5 must be in [0, 1]"),
    (("merges", "top", "models"), ["b", "c"], "merges.top: slerp needs exactly 1 model(s)"),
    (("path",), [], "path: is empty"),
    (("path",), "top[0:6]", "path: must be a list, not text"),
    (("path", 1), "top[0:99999999999999999999]", "path[1]: 'top[0:99999999999999999999]': layer"),
    (("path", 1), "top[0:5000]", "path[1]: the path has more than 4096 steps"),
    (("path", 1), "top", "path[1]: 'top' is not a path step such as"),
    (("path", 1), "top[03]", "path[1]: 'top[03]' is not a path step"),
    (("path", 1), "top[٣]", "path[1]: 'top[٣]' is not a path step"),
    (("path", 1), "zz[1]", "path[1]: unknown model 'zz'"),
    (("embed",), "b", "path[0]: starts with top[0] but the embedding is that of 'b'"),
    (("head",), "b", "path[-1]: ends with top[5] but the head is that of 'b'"),
    (("tokenizer",), "zz", "tokenizer: unknown model 'zz'"),
    (("scaling", "per_hop"), [1.0] * 7, "scaling: give only one of matrix and per_hop"),
    (("scaling",), {"per_hop": [1.0]}, "scaling.per_hop: has 1 numbers for a path of 7 steps"),
    (("scaling", "default"), 1e38, "scaling.default: should be less than or equal to 10000"),
    (("scaling", "matrix", 0, 1), "b[2]", "scaling.matrix[0]: the path has no hop top[3] -> b[2]"),
    (("scaling", "matrix", 0), ["b[1]"], "scaling.matrix[0][1]: is required"),
    (("description",), "x" * 3_000_000, "description: should have at most 65536 characters"),
    (("sources", "a", "model"), "x" * 2000, "sources.a.model: should have at most 1024"),
    (("path", 1), "ps\n" * 10_000, "path[1]: should have at most 256 characters"),
    (("description",), "\ud800", "description: holds half of a surrogate pair"),
    (("provenance",), {"a": [1]}, "provenance.a: must be text or an integer or a number or a"),
    (("generation",), {"temperature": -1}, "generation.temperature: should be greater than"),
    (("evaluation",), [{"task": "x"}], "evaluation[0].metric: is required"),
]

TEXTS: list[tuple[str, str]] = [
    ("", "must be an object, not empty"),
    ("[]", "must be an object, not a list"),
    ("just text", "must be an object, not text"),
    ("3", "must be an object, not a number"),
    ("{", "is not valid JSON"),
    ("a: [", "is not valid YAML"),
    ("{}", "format: is required"),
    ('{"a": {"b": 1, "b": 2}}', "a.b: key given twice"),
    ("a:\n  b: 1\n  b: 2", "a.b: key given twice"),
    ("a: &x 1\nb: *x", "YAML aliases (*x in line 2) are not accepted"),
    ("a: !!python/object:os.system x", "YAML tags"),
    ("a: !!int ''", "YAML tags"),
    ("? [a]\n: b", "has a key that is not text"),
    ("1: 2", "key 1 is not text; quote it"),
    ("a: {b: .nan}", "a.b: nan is not a finite number"),
    ("a: -.inf", "a: -inf is not a finite number"),
    ('{"a": [NaN]}', "a[0]: nan is not a finite number"),
    ('{"a": 1e999}', "a: inf is not a finite number"),
    ("a: 1e999", "a: inf is not a finite number"),
    ("[" * 100_000, "is nested deeper than 64 levels"),
    ('{"a":' * 100_000, "is nested deeper than 64 levels"),
    ('{"a": ' + "[" * 90 + "]" * 90 + "}", "is nested deeper than 64 levels"),
    ('{"a": ' + "9" * 5000 + "}", "cannot be read"),
    ("a: " + "9" * 5000, "cannot be read"),
    ("\x00", "is not valid YAML"),
    ("a: 1\n---\nb: 2", "is not valid YAML"),
    ("merge_method: linear\nmodels: []", "is a mergekit configuration"),
    ("x" * (MAX_YAML_CHARS + 1), "YAML may have"),
    ("{" + " " * MAX_DOCUMENT_CHARS, "characters long"),
    ('{"name": "' + "x" * 10_000_000 + '"}', "characters long"),
]


def _replaced(keys: Keys, value: object) -> dict[str, Any]:
    document = copy.deepcopy(VALID)
    place: Any = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return document


def _fault(read: Callable[[], object]) -> str:
    with pytest.raises(ManifestError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def test_the_valid_one_is_valid() -> None:
    build_manifest(VALID)


@pytest.mark.parametrize(("keys", "value", "message"), REPLACED)
def test_a_wrong_value_is_named_with_its_place(keys: Keys, value: object, message: str) -> None:
    assert _fault(lambda: build_manifest(_replaced(keys, value))).startswith(message)


@pytest.mark.parametrize(("text", "message"), TEXTS, ids=[text[:12] for text, _ in TEXTS])
def test_a_text_that_is_no_manifest_is_refused(text: str, message: str) -> None:
    assert message in _fault(lambda: parse_manifest(text))


def test_a_network_must_fit_itself_and_the_path() -> None:
    network = {"pool": ["top", "b"], "weights": [[[1, 2, 3]]], "biases": [[0]]}
    build_manifest(_replaced(("scaling",), {"network": network}))
    for change, message in [
        ({"pool": ["top"]}, "scaling.network.pool: the path visits 'b'"),
        ({"pool": ["top", "b", "zz"]}, "scaling.network.pool[2]: 'zz' is unknown"),
        ({"pool": ["top", "b", "b"]}, "scaling.network.pool[2]: 'b' is listed twice"),
        ({"weights": [[[1, 2]]]}, "scaling.network.weights[0]: rows must hold 3 numbers"),
        ({"biases": [[0, 0]]}, "scaling.network.biases[0]: has 2 numbers for 1 rows"),
        ({"biases": []}, "scaling.network.biases: should have at least 1 item"),
        ({"weights": [[[1, 2, 3]] * 2], "biases": [[0, 0]]}, "scaling.network: the last layer"),
    ]:
        spoilt = _replaced(("scaling",), {"network": {**network, **change}})
        assert _fault(lambda spoilt=spoilt: build_manifest(spoilt)).startswith(message)  # type: ignore[misc]


def test_without_a_path_the_model_must_be_clear() -> None:
    document = {key: value for key, value in VALID.items() if key not in ("path", "scaling")}
    document["merges"] = {**VALID["merges"], "two": {"method": "linear", "weights": {"a": 1}}}
    assert _fault(lambda: build_manifest(document)) == ("path: is needed to choose among top, two")


def test_yaml_reads_numbers_as_json_does() -> None:
    text = json.dumps(VALID).replace('"seed"', '"x"')
    manifest = parse_manifest(text.replace('"c": 0.5', '"c": 1e-3'))
    flow = json.dumps(VALID).replace('"c": 0.5', "c: 1e-3")
    assert parse_manifest(flow) == manifest
    with pytest.raises(ManifestError, match=r"name: must be text, not a number \(got 100000.0\)"):
        parse_manifest(flow.replace('"name": "x"', '"name": 1e5'))
    assert parse_manifest(flow.replace('"name": "x"', "name: yes")).name == "yes"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(b'{"a": "\xff"}')
    assert _fault(lambda: load_manifest(file)) == (
        f"{file}: is not UTF-8 text (invalid start byte)"
    )
    missing = tmp_path / "none.json"
    assert _fault(lambda: load_manifest(missing)) == f"{missing}: No such file or directory"
    assert _fault(lambda: load_manifest(tmp_path)) == f"{tmp_path}: Is a directory"
    file.write_text(json.dumps(_replaced(("name",), 3)), encoding="utf-8")
    assert _fault(lambda: load_manifest(file)).startswith(f"{file}: name: must be text")
    with file.open("wb") as stream:
        stream.truncate(200 * 2**20)
    assert "is larger than" in _fault(lambda: load_manifest(file))


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "bom.json"
    file.write_text(json.dumps(VALID), encoding="utf-8-sig")
    assert load_manifest(file) == build_manifest(VALID)


def test_a_reader_of_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    write_text(file, "old")
    with file.open() as reader:
        write_text(file, "new")
        assert reader.read() == "old"
    assert file.read_text() == "new"


def test_a_failing_write_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    write_text(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.json"]


def test_a_write_over_a_folder_leaves_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "recipe.json"
    folder.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(folder, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """The limit on a file's size fails a write half way, as a full disk does."""
    file = tmp_path / "recipe.json"
    write_text(file, "old")
    code = (
        "import pathlib, resource, sys\n"
        "from evoserve.manifest.load import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "write_text(pathlib.Path(sys.argv[1]), 'new' * 100_000)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.json"]
