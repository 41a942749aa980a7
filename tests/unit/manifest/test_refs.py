"""The little languages: steps, paths, layers and groups."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import groups, layer_refs

from evoserve.manifest.methods import COEFFICIENT_DEFAULTS, METHOD_NAMES, OPTION_DEFAULTS, TRAITS
from evoserve.manifest.parts import MergeOptions
from evoserve.manifest.refs import (
    Group,
    LayerRef,
    expand_path,
    find_group,
    format_path,
    parse_group,
    parse_layer,
    parse_step,
)
from evoserve.manifest.tensor_names import EMBED_TENSORS, HEAD_TENSORS, LAYER_TENSORS, full_name


@given(layer_refs())
def test_expanding_a_formatted_path_gives_its_steps(steps: list[LayerRef]) -> None:
    assert expand_path(format_path(steps)) == steps


@given(layer_refs())
def test_a_formatted_path_is_the_shortest(steps: list[LayerRef]) -> None:
    breaks = sum(LayerRef(a.model, a.layer + 1) != b for a, b in pairwise(steps))
    assert len(format_path(steps)) == (breaks + 1 if steps else 0)


@given(st.builds(LayerRef, st.sampled_from(["a", "_-9"]), st.integers(0, 65_535)))
def test_a_layer_reads_back_from_its_text(ref: LayerRef) -> None:
    assert parse_layer(str(ref)) == ref
    assert parse_step(str(ref)) == [ref]


@given(groups())
def test_a_group_holds_exactly_the_tensors_of_its_part_range_and_filter(text: str) -> None:
    group = parse_group(text)
    head, _, filter_ = text.partition(".")
    for layer in (0, 3, 7, 39, 40):
        name = full_name(layer, "mlp.down_proj.weight")
        in_part = head in ("all", "layers") or (
            head.startswith("layers[") and layer in [r.layer for r in parse_step(head)]
        )
        assert group.matches("layers", layer, name) == (in_part and filter_ in name)
    assert group.matches("embed", None, EMBED_TENSORS[0]) == (
        head in ("all", "embed") and filter_ in EMBED_TENSORS[0]
    )


@given(st.text(max_size=12) | st.from_regex(r"[a-z]+(\[[0-9:]*\])?(\.[a-z]+)?", fullmatch=True))
def test_any_text_is_a_group_and_step_or_a_value_error(text: str) -> None:
    for parse in (parse_group, parse_step, parse_layer):
        try:
            parse(text)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_the_first_group_that_holds_a_tensor_counts() -> None:
    listed = [Group("layers", 0, 2, "mlp"), Group("layers"), Group("all")]
    assert find_group(listed, "layers", 1, full_name(1, "mlp.up_proj.weight")) == 0
    assert find_group(listed, "layers", 2, full_name(2, "mlp.up_proj.weight")) == 1
    assert find_group(listed, "head", None, "lm_head.weight") == 2
    assert find_group(listed[:2], "head", None, "lm_head.weight") is None


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_option_that_a_method_reads_has_a_default(method: str) -> None:
    assert OPTION_DEFAULTS[method].keys() == TRAITS[method].options
    options = MergeOptions().or_default(method)  # type: ignore[arg-type]
    assert options.model_dump(by_alias=True, exclude_none=True) == OPTION_DEFAULTS[method]


def test_every_coefficient_per_model_has_a_default() -> None:
    read = set().union(*(traits.coefficients for traits in TRAITS.values()))
    assert read - {"t", "split"} == COEFFICIENT_DEFAULTS.keys()


def test_the_listed_tensor_names_are_those_of_the_supported_families() -> None:
    from evoserve.sources.architecture import parse_architecture, tensor_shapes

    found: set[str] = set()
    for family in ("llama", "mistral", "qwen2", "qwen3"):
        config = {
            "model_type": family,
            "vocab_size": 8,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "attention_bias": True,
            "mlp_bias": True,
        }
        found |= tensor_shapes(parse_architecture(config)).keys()
    layer = {full_name(0, short) for short in LAYER_TENSORS}
    assert found == layer | {*EMBED_TENSORS, *HEAD_TENSORS}
