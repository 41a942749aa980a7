"""Properties of reading, writing and naming manifests."""

import copy
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Document, documents, manifests

from evoserve.errors import ManifestError
from evoserve.manifest.canonical import canonical_json, digest, model_id, normal_form
from evoserve.manifest.load import (
    build_manifest,
    dump_manifest,
    json_schema,
    load_manifest,
    parse_manifest,
    save_manifest,
)
from evoserve.manifest.methods import COEFFICIENT_DEFAULTS, OPTION_DEFAULTS, TRAITS
from evoserve.manifest.schema import Manifest

FREE_FIELDS = (
    *("name", "description", "license", "chat_template", "generation", "evaluation"),
    "provenance",
)
FEW = settings(max_examples=25, deadline=None)


class _Quoting(yaml.SafeDumper):
    """Quotes all text, as YAML versions differ in what is text without quotes."""


_Quoting.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)
_Quoting.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


@FEW
@given(manifests())
def test_dumped_json_loads_to_an_equal_manifest(manifest: Manifest) -> None:
    assert parse_manifest(dump_manifest(manifest)) == manifest


@FEW
@given(manifests(), st.sampled_from([None, True, False]))
def test_the_same_values_as_yaml_load_to_an_equal_manifest(
    manifest: Manifest, flow: bool | None
) -> None:
    values = json.loads(dump_manifest(manifest))
    text = yaml.dump(values, Dumper=_Quoting, default_flow_style=flow, allow_unicode=True)
    assert parse_manifest(text) == manifest


@FEW
@given(manifests())
def test_files_hold_what_was_saved(manifest: Manifest) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "deep" / "recipe.json"
        save_manifest(manifest, file)
        assert load_manifest(file) == manifest
        assert [entry.name for entry in file.parent.iterdir()] == ["recipe.json"]


@FEW
@given(documents(), st.randoms(use_true_random=False), st.sampled_from([None, 0, 7]))
def test_digest_ignores_key_order_and_white_space(
    document: Document, random: Any, indent: int | None
) -> None:
    shuffled = _shuffled(document, random)
    text = json.dumps(shuffled, indent=indent)
    assert digest(parse_manifest(text)) == digest(build_manifest(document))


@FEW
@given(documents())
def test_digest_is_the_same_with_defaults_written_and_omitted(document: Document) -> None:
    manifest = build_manifest(document)
    short = parse_manifest(dump_manifest(manifest))
    full = build_manifest(_written_out(manifest))
    assert digest(short) == digest(manifest) == digest(full)


@FEW
@given(manifests())
def test_the_normal_form_is_its_own_normal_form(manifest: Manifest) -> None:
    again = {**normal_form(manifest), "name": "other"}
    sources = again["sources"].items()
    again["sources"] = {
        name: {"model": "x", **source, **_with_model(source.get("adapter"))}
        for name, source in sources
    }
    assume(all("digest" in s or "model" in s for _, s in sources))
    assert canonical_json(build_manifest(again)) == canonical_json(manifest)


@FEW
@given(documents(), documents())
def test_digest_ignores_what_does_not_determine_the_model(one: Document, other: Document) -> None:
    mixed = {key: value for key, value in one.items() if key not in FREE_FIELDS}
    mixed |= {key: other[key] for key in FREE_FIELDS if key in other}
    assert digest(build_manifest(mixed)) == digest(build_manifest(one))


@FEW
@given(documents(), st.data())
def test_any_change_of_a_determining_field_changes_the_digest(
    document: Document, data: st.DataObject
) -> None:
    manifest = build_manifest(document)
    leaves = list(_leaves(normal_form(manifest)))
    keys, value = data.draw(st.sampled_from(leaves))
    changed = normal_form(manifest)
    _put(changed, keys, _other(value))
    full = {**changed, "name": manifest.name}
    for name, source in full["sources"].items():
        full["sources"][name] = {"model": "x", **source, **_with_model(source.get("adapter"))}
    try:
        other = build_manifest(full)
    except ManifestError:
        assume(False)
    assert digest(other) != digest(manifest)


def test_the_digest_of_the_example_is_the_golden_one() -> None:
    folder = Path(__file__).parents[2] / "golden"
    golden = json.loads((folder / "manifest_digest.json").read_text(encoding="utf-8"))
    manifest = load_manifest(folder / "manifest.json")
    assert digest(manifest) == golden["digest"]
    assert canonical_json(manifest).decode() == golden["canonical"]
    assert model_id(manifest) == f"ja-math@{golden['digest'][7:19]}"


@FEW
@given(documents(), st.data())
def test_an_unknown_key_is_refused_wherever_it_stands(
    document: Document, data: st.DataObject
) -> None:
    places = [
        keys
        for keys, value in _objects(document)
        if keys not in (("sources",), ("merges",), ("provenance",))
        and keys[-1:] not in (("weights",), ("densities",), ("gammas",), ("epsilons",))
    ]
    keys = data.draw(st.sampled_from(places))
    spoilt = copy.deepcopy(document)
    _get(spoilt, keys)["wieght"] = 1
    with pytest.raises(ManifestError, match="unknown key; known: ") as caught:
        build_manifest(spoilt)
    assert caught.value.where.endswith("wieght")
    assert "\n" not in str(caught.value)


@FEW
@given(st.text())
def test_arbitrary_text_is_a_manifest_error_or_nothing(text: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(text)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


@FEW
@given(json_values)
def test_arbitrary_json_is_a_manifest_error_or_nothing(value: object) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest(json.dumps(value))
    assert "\n" not in str(caught.value)


@FEW
@given(documents(), st.data())
def test_a_manifest_with_one_value_replaced_is_valid_or_a_manifest_error(
    document: Document, data: st.DataObject
) -> None:
    spoilt = copy.deepcopy(document)
    places = [keys for keys, _ in [*_leaves(spoilt), *_objects(spoilt)] if keys]
    _put(spoilt, data.draw(st.sampled_from(places)), data.draw(json_values))
    fault = ""
    try:
        parse_manifest(json.dumps(spoilt))
    except ManifestError as error:
        fault = str(error)
    assert "\n" not in fault


@FEW
@given(documents())
def test_documents_satisfy_the_published_schema(document: Document) -> None:
    jsonschema.Draft202012Validator(json_schema()).validate(document)


def _shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        items = [(key, _shuffled(item, random)) for key, item in value.items()]
        random.shuffle(items)
        return dict(items)
    return [_shuffled(item, random) for item in value] if isinstance(value, list) else value


def _written_out(manifest: Manifest) -> Document:
    """Every default of the specification spelled out."""
    full: Document = json.loads(manifest.model_dump_json(by_alias=True))
    for name, merge in manifest.merges.items():
        written = full["merges"][name]
        written["models"] = list(merge.inputs)
        given_ = {k: v for k, v in written["options"].items() if v is not None}
        written["options"] = {**OPTION_DEFAULTS[merge.method], **given_}
        for field, default in COEFFICIENT_DEFAULTS.items():
            if field in TRAITS[merge.method].coefficients:
                table = written[field]
                written[field] = {model: table.get(model, default) for model in merge.inputs}
    full["tokenizer"] = manifest.tokenizer_model
    full["embed"], full["head"] = manifest.embed_model, manifest.head_model
    return full


def _with_model(adapter: Document | None) -> Document:
    return {} if adapter is None else {"adapter": {"model": "x", **adapter}}


def _leaves(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*keys, index))
    else:
        yield keys, value


def _objects(value: Any, keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if isinstance(value, dict):
        yield keys, value
        for key, item in value.items():
            yield from _objects(item, (*keys, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects(item, (*keys, index))


def _get(value: Any, keys: tuple[Any, ...]) -> Any:
    for key in keys:
        value = value[key]
    return value


def _put(value: Any, keys: tuple[Any, ...], item: Any) -> None:
    _get(value, keys[:-1])[keys[-1]] = item


def _other(value: Any) -> Any:
    """A value of the same type near `value` that is not equal to it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 0.5 if value == 0 else (value / 2 if isinstance(value, float) else value + 1)
    other = {"float32": "float16", "mlp_output": "hidden_state", "density": "l1"}
    return other.get(value, f"{value}0")
