"""mergekit's YAML without mergekit: structure, refusals, values; the oracle test compares them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from strategies import Document, merges

from evoserve.errors import ManifestError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import build_manifest
from evoserve.manifest.mergekit_export import export_mergekit
from evoserve.manifest.mergekit_import import import_mergekit
from evoserve.manifest.mergekit_methods import MERGEKIT_METHODS
from evoserve.manifest.mergekit_settings import Layers, setting
from evoserve.manifest.mergekit_values import convert
from evoserve.manifest.methods import TRAITS
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.refs import find_group, parse_group
from evoserve.manifest.schema import Manifest
from evoserve.manifest.tensor_names import EMBED_TENSORS, HEAD_TENSORS, LAYER_TENSORS, full_name

LAYERS = {"org/a": 4, "org/b": 4, "org/c": 4, "deep": 6, "x@y": 4}

GOOD = """
merge_method: dare_ties
base_model: org/a
models:
- model: org/b
  parameters: {weight: 0.5, density: 0.4}
- model: org/c@main+org/lora@v2
  parameters: {weight: [0, 1], density: [{filter: mlp, value: 0.3}]}
dtype: float32
out_dtype: torch.bfloat16
tokenizer_source: base
"""


def _import(text: str) -> Manifest:
    return import_mergekit(text, name="m", num_layers=LAYERS)


def test_a_whole_merge_becomes_one_merge_with_mergekits_meaning_written_out() -> None:
    manifest = _import(GOOD)
    assert manifest.path is None
    assert {name: source.model for name, source in manifest.sources.items()} == {
        "b": "org/b",
        "lora": "org/c",
        "a": "org/a",
    }
    source = manifest.sources["lora"]
    assert source.revision == "main"
    assert source.adapter is not None
    assert (source.adapter.model, source.adapter.revision) == ("org/lora", "v2")
    merge = manifest.merges["merged"]
    assert (merge.base, merge.inputs, merge.dtype, merge.seed) == (
        "a",
        ("b", "lora"),
        "bfloat16",
        0,
    )
    assert merge.options.rescale == "l1"
    assert merge.options.normalize is False
    assert merge.weights["b"] == 0.5
    assert merge.groups[0] == "embed"
    assert merge.groups[1] == "layers[0].mlp"


def test_equal_neighbours_become_one_group() -> None:
    text = GOOD.replace("[0, 1]", "[1, 1]").replace("[{filter: mlp, value: 0.3}]", "0.3")
    merge = _import(text).merges["merged"]
    assert merge.groups == ("all",)
    assert merge.densities == {"b": 0.4, "lora": 0.3}


def test_slices_that_disagree_on_a_layer_become_two_merges() -> None:
    text = """
        merge_method: linear
        parameters: {weight: [0, 1]}
        slices:
        - sources: [{model: org/a, layer_range: [0, 3]}, {model: org/b, layer_range: [0, 3]}]
        - sources: [{model: org/a, layer_range: [2, 4]}, {model: org/b, layer_range: [2, 4]}]
        """
    manifest = _import(text)
    assert manifest.path == ("merged[0:3]", "merged_2[2:4]")
    assert manifest.merges["merged_2"].groups == ("embed", "layers[0:3]", "layers[3]", "head")


def test_a_frankenmerge_is_a_path_over_sources() -> None:
    text = """
        merge_method: passthrough
        base_model: org/c
        dtype: bfloat16
        slices:
        - sources: [{model: org/a, layer_range: [0, 3]}]
        - sources: [{model: deep, layer_range: [2, 6]}]
        """
    manifest = _import(text)
    assert (manifest.path, manifest.merges) == (("a[0:3]", "deep[2:6]"), {})
    assert manifest.tokenizer == "c"


@pytest.mark.parametrize(
    ("source", "tokenizer"),
    [("tokenizer_source: union", "union"), ("tokenizer: {source: org/b}", "b"), ("", None)],
)
def test_tokenizer_sources(source: str, tokenizer: str | None) -> None:
    assert _import(GOOD.replace("tokenizer_source: base", source)).tokenizer == tokenizer


REFUSED: list[tuple[str, str, str]] = [
    ("merge_method: dare_ties", "merge_method: sce", "merge_method: method 'sce' is not supported"),
    ("merge_method: dare_ties", "", "merge_method: method None is not supported; supported: lin"),
    ("dtype: float32", "dtype: float64", "dtype: 'float64' must be float32, bfloat16 or float16"),
    ("dtype: float32", "name: x", "name: unknown key; supported: merge_method, models"),
    ("dtype: float32", "slices: [1]", "give exactly one of models, slices and modules"),
    ("weight: 0.5", "wieght: 0.5", "models[0].parameters.wieght: mergekit's dare_ties does not"),
    ("weight: 0.5", "normalize: 1", "models[0].parameters.normalize: mergekit's dare_ties does"),
    ("weight: 0.5", "epsilon: 0.5", "models[0].parameters.epsilon: mergekit's dare_ties does not"),
    ("weight: 0.5,", "", "models[0].parameters.weight: dare_ties needs 'weight' of model 'org/b'"),
    ("weight: 0.5", "weight: .nan", "models[0].parameters.weight: nan is not a finite number"),
    ("weight: 0.5", "weight: heavy", "models[0].parameters.weight: must be a finite number, not"),
    ("weight: 0.5", "weight: [[1]]", "models[0].parameters.weight: must be a number or a list"),
    ("weight: 0.5", "weight: {valeu: 1}", "models[0].parameters.weight: unknown key 'valeu'"),
    ("weight: 0.5", "weight: {filter: x}", "models[0].parameters.weight: lacks 'value'"),
    ("weight: 0.5", "weight: [{value: 1}, 2]", "models[0].parameters.weight[1]: must be an obj"),
    ("density: 0.4", "density: 1.4", "models[0].parameters.density: density 1.4 must be in (0, 1"),
    ("density: 0.4", "density: 0", "models[0].parameters.density: density 0.0 must be in (0, 1]"),
    ("value: 0.3", "value: 3", "models[1].parameters.density: density 3.0 must be in (0, 1]"),
    ("base_model: org/a", "", "models: dare_ties needs a base_model"),
    ("base_model: org/a", "base_model: a+b+c", "base_model: 'a+b+c' has more than one +"),
    ("base_model: org/a", "base_model: a@b@c", "base_model: 'a@b@c' has more than one @"),
    ("base_model: org/a", "base_model: deep", "models: the models differ in their number of lay"),
    ("base_model: org/a", "base_model: none", "models: the number of layers of model 'none' is"),
    ("- model: org/b", "- model: org/c@main+org/lora@v2", "models: a model is listed twice"),
    ("- model: org/b", "- modle: org/b", "models[0].modle: unknown key; supported: model, para"),
    ("- model: org/b", "- weight: 1", "models[0].weight: unknown key; supported: model, param"),
    ("tokenizer_source: base", "tokenizer: {tokens: {a: {}}}", "tokenizer.tokens: is not support"),
    ("tokenizer_source: base", "chat_template: auto", "chat_template: 'auto' is not a Jinja temp"),
    ("tokenizer_source: base", "parameters: {lambda: [0, 1]}", "parameters.lambda: is 0.0 for so"),
    ("tokenizer_source: base", "parameters: {rescale: maybe}", "parameters.rescale: must be a boo"),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED, ids=[new for _, new, _ in REFUSED])
def test_what_cannot_be_said_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(ManifestError) as caught:
        _import(GOOD.replace(old, new, 1))
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (
            "[0, 2] [1, 3]",
            "slices[0].sources: the sources of a slice must have the same layer_rang",
        ),
        ("[0, 5] [0, 5]", "slices[0].sources[0].layer_range: [0, 5] must lie within [0, 4]"),
        ("[2, 2] [2, 2]", "slices[0].sources[0].layer_range: [2, 2] must lie within"),
        ("[2] [2]", "slices[0].sources[0].layer_range: must be [first, past the last]"),
    ],
)
def test_layer_ranges_must_fit(ranges: str, message: str) -> None:
    first, second = ranges.replace("] [", "]|[").split("|")
    sources = f"[{{model: org/a, layer_range: {first}}}, {{model: org/b, layer_range: {second}}}]"
    text = f"merge_method: linear\nparameters: {{weight: 1}}\nslices: [{{sources: {sources}}}]"
    with pytest.raises(ManifestError) as caught:
        _import(text)
    assert str(caught.value).startswith(message)


def test_passthrough_of_several_models_and_rescaled_ties_are_refused() -> None:
    with pytest.raises(ManifestError, match="passthrough takes one model, got 2"):
        _import("{merge_method: passthrough, models: [{model: org/a}], base_model: org/b}")
    with pytest.raises(ManifestError, match=r"^parameters.rescale: ties cannot rescale here"):
        _import(
            "{merge_method: ties, models: [{model: org/a}], base_model: org/b, "
            "parameters: {weight: 1, rescale: true}}"
        )


def test_names_with_signs_and_clashes_survive() -> None:
    text = """
        merge_method: linear
        models:
        - {model: {model: {path: x@y, revision: r}}}
        - {model: org/union}
        - {model: other/7b.chat}
        - {model: org/7b.chat}
        parameters: {weight: 1}
        """
    counts = {"x@y": 2, "org/union": 2, "other/7b.chat": 2, "org/7b.chat": 2}
    manifest = import_mergekit(text, name="m", num_layers=counts)
    assert list(manifest.sources) == ["x_y", "union_2", "m_7b_chat", "m_7b_chat_2"]
    again = import_mergekit(export_mergekit(manifest), name="m", num_layers=counts)
    assert again.sources == manifest.sources
    assert digest(again) == digest(manifest)


MERGE = {"method": "ties", "base": "a", "weights": {"b": 1.0}}
UNEXPORTABLE = [
    ({"scaling": {"per_hop": [0.5]}, "path": ["ps[0]"]}, "scaling: mergekit cannot scale the hops"),
    ({"scaling": {"default": 0.9}}, "scaling: mergekit cannot scale"),
    ({"merges": {"ps": {**MERGE, "method": "dare_ties"}}}, "merges.ps.options.rescale: mergekit"),
    (
        {
            "merges": {
                "ps": {"method": "split_slerp", "base": "a", "models": ["b"], "t": 1, "split": 1}
            }
        },
        "merges.ps.method: mergekit has no split_slerp",
    ),
    (
        {"merges": {"in": MERGE, "ps": {"method": "linear", "weights": {"in": 1, "b": 1}}}},
        "merges.ps: merges 'in', itself a merge",
    ),
    (
        {"merges": {"ps": {"method": "karcher", "weights": {"a": 1, "b": 2}}}},
        "merges.ps.weights: mergekit's karcher has no weights",
    ),
    ({"path": ["ps[0:2]", "a[2]", "ps[3]"]}, "path: mergekit cannot mix merged layers (ps) with"),
    (
        {
            "merges": {"ps": MERGE, "two": {**MERGE, "dtype": "float16"}},
            "path": ["ps[0:2]", "two[2:4]"],
        },
        "path: mergekit has one merge_method and dtype per file; the path visits ps (ties, fl",
    ),
    (
        {"merges": {"ps": {**MERGE, "weights": {"b": [1, 2]}, "groups": ["layers", "embed"]}}},
        "merges.ps.groups: no group holds tensor model.norm.weight",
    ),
    (
        {
            "merges": {
                "ps": {**MERGE, "weights": {"b": [1, 2]}, "groups": ["layers[0:9999]", "all"]}
            }
        },
        "merges.ps.groups: 9999 layers are too many to list one by one",
    ),
]


@pytest.mark.parametrize(("change", "message"), UNEXPORTABLE, ids=[m for _, m in UNEXPORTABLE])
def test_what_mergekit_cannot_express_is_refused(change: dict[str, object], message: str) -> None:
    document = {
        "format": "evoserve/1",
        "name": "x",
        "sources": {"a": {"model": "org/a"}, "b": {"model": "org/b"}},
        "merges": {"ps": MERGE},
    }
    with pytest.raises(ManifestError) as caught:
        export_mergekit(build_manifest(document | change))
    assert str(caught.value).startswith(message)


def test_random_masks_are_announced_in_the_export() -> None:
    text = export_mergekit(_import(GOOD))
    assert text.startswith("# mergekit draws its masks")
    assert export_mergekit(_import(GOOD.replace("dare_ties", "ties"))).startswith("merge_method")


@settings(max_examples=60, deadline=None)
@given(merges(["a", "b", "c"]), st.integers(1, 12))
def test_a_setting_says_what_the_groups_say(document: Document, count: int) -> None:
    """Evaluate the filters of a setting on every tensor, as mergekit does."""
    listed = [*dict.fromkeys([*document["groups"], "all"])]
    document = _stretched({**document, "groups": listed}, len(listed))
    merge = MergeSpec.model_validate_json(json.dumps(document))
    groups = [parse_group(text) for text in merge.groups]
    fields = [f for f in TRAITS[merge.method].coefficients if f != "split"]
    for field in fields:
        for stop in (None, count):
            layers = Layers(0, stop, 0, has_embed=True, has_head=True)
            written = setting(merge, field, merge.inputs[0], layers, "")
            for part, layer, name in _all_tensors(count):
                index = find_group(groups, part, layer, name)
                assert index is not None
                expected = merge.coefficients(merge.inputs[0], index)[field]
                assert _evaluated(written, name) == expected


def test_a_listed_layer_is_not_caught_by_the_filters_of_those_beyond() -> None:
    merge = MergeSpec.model_validate_json(
        '{"method": "linear", "groups": ["layers[0]", "layers.mlp", "all"],'
        ' "weights": {"a": [1, 2, 1]}}'
    )
    written = setting(merge, "weights", "a", Layers(0, None, 0, has_embed=True, has_head=True), "")
    assert _evaluated(written, full_name(0, "mlp.up_proj.weight")) == 1
    assert _evaluated(written, full_name(1, "mlp.up_proj.weight")) == 2
    assert _evaluated(written, full_name(10, "mlp.up_proj.weight")) == 2
    assert _evaluated(written, "lm_head.weight") == 1


def _stretched(document: Document, count: int) -> Document:
    """The same merge for `count` groups: the last number is repeated."""

    def stretch(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stretch(item) for key, item in value.items()}
        return value + value[-1:] * (count - len(value)) if isinstance(value, list) else value

    fixed = ("groups", "models")
    return {key: item if key in fixed else stretch(item) for key, item in document.items()}


def _all_tensors(count: int) -> list[tuple[str, int | None, str]]:
    found: list[tuple[str, int | None, str]] = [("embed", None, name) for name in EMBED_TENSORS]
    found += [("layers", i, full_name(i, short)) for i in range(count) for short in LAYER_TENSORS]
    return found + [("head", None, name) for name in HEAD_TENSORS]


def _evaluated(written: object, name: str) -> object:
    if not isinstance(written, list):
        return written
    return next(e["value"] for e in written if e.get("filter") is None or e["filter"] in name)


@given(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["1e-3", "on", "OFF", "12"])
)
def test_values_are_read_as_pydantic_reads_them(value: bool | float | str) -> None:
    for kind, type_ in (("bool", bool), ("float", float)):
        try:
            expected = TypeAdapter(type_).validate_python(value)
        except ValidationError:
            expected = None
        if isinstance(expected, float) and not abs(expected) < float("inf"):
            expected = None
        try:
            found = convert(value, kind, "")  # type: ignore[arg-type]
        except ManifestError:
            found = None
        assert found == expected, (kind, value)


def test_every_shared_method_reads_the_same_coefficients_on_both_sides() -> None:
    for method, declared in MERGEKIT_METHODS.items():
        traits = TRAITS[method]
        fields = {parameter.field for parameter in declared.inputs.values()}
        fields |= {"t"} if declared.has_t else set()
        assert fields | ({"weights"} if method == "karcher" else set()) == traits.coefficients
        options = {parameter.option for parameter in declared.shared.values()}
        assert traits.options <= options
        assert options - traits.options <= {"rescale"}
