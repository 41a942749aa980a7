"""Folding: the factors, their bounds, and RMSNorm's identity they rest on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evoserve.errors import ManifestError
from evoserve.manifest.refs import LayerRef
from evoserve.model.fold import EPS_MATTERS, MAX_SHRINK, fold_path
from evoserve.model.layer import rms_norm
from evoserve.model.plan import PathPlan, PlannedStep
from evoserve.sources.architecture import parse_architecture

ARCH = parse_architecture(
    {
        "model_type": "llama",
        "vocab_size": 8,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 8,
        "num_attention_heads": 2,
        "rms_norm_eps": 1e-5,
    }
)


def plan(scales: list[float], target: str, *, qk_norm: bool = False) -> PathPlan:
    arch = replace(ARCH, qk_norm=qk_norm)
    steps = [PlannedStep(LayerRef("a", 0), scale, arch, 0, None) for scale in scales]
    return PathPlan(tuple(steps), (), target, arch, arch, 64)


def test_mlp_output_moves_every_scale_one_hop_back() -> None:
    fold = fold_path(plan([0.5, 2.0, -3.0], "mlp_output"))
    assert fold.embed == 0.5
    assert [layer.factor("mlp.down_proj.weight") for layer in fold.layers] == [2.0, -3.0, 1.0]
    assert [layer.factor("mlp.down_proj.bias") for layer in fold.layers] == [2.0, -3.0, 1.0]
    assert {layer.factor("self_attn.o_proj.weight") for layer in fold.layers} == {1.0}
    assert (fold.final_norm, fold.eps, fold.warnings) == (1.0, 1e-5, ())


def test_hidden_state_divides_by_cumulative_products() -> None:
    fold = fold_path(plan([0.5, -2.0, -0.5], "hidden_state", qk_norm=True))
    assert fold.embed == 1.0
    for short in ("self_attn.o_proj.weight", "mlp.down_proj.bias"):
        assert [layer.factor(short) for layer in fold.layers] == [2.0, -1.0, 2.0]
    for short in ("input_layernorm.weight", "post_attention_layernorm.weight"):
        assert [layer.factor(short) for layer in fold.layers] == [1.0, -1.0, 1.0]
    assert {layer.factor("self_attn.q_proj.weight") for layer in fold.layers} == {2.0}
    assert {layer.factor("self_attn.v_proj.weight") for layer in fold.layers} == {1.0}
    assert {layer.factor("self_attn.q_norm.weight") for layer in fold.layers} == {1.0}
    assert fold.final_norm == 1.0
    assert fold.eps == pytest.approx(4e-5)


def test_a_negative_end_flips_the_final_norm() -> None:
    assert fold_path(plan([1.0, -1.0], "hidden_state")).final_norm == -1.0


@given(st.floats(0.05, 20), st.booleans(), st.integers(0, 1000))
def test_rms_norm_is_odd_and_scale_free_up_to_eps(size: float, flip: bool, seed: int) -> None:
    scale = -size if flip else size
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)).double().float()
    weight = torch.ones(16)
    expected = rms_norm(hidden * scale, weight, 1e-2)
    folded = rms_norm(hidden, weight if scale > 0 else -weight, 1e-2 / scale**2)
    torch.testing.assert_close(folded, expected, atol=1e-5, rtol=1e-5)


def test_a_spread_that_matters_is_warned_of() -> None:
    assert not fold_path(plan([0.1, 1.01 / EPS_MATTERS], "hidden_state")).warnings
    assert not fold_path(plan([1.0, 1e4], "hidden_state")).warnings
    (warning,) = fold_path(plan([0.1, 0.9 / EPS_MATTERS], "hidden_state")).warnings
    assert "4.44 times below" in warning


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ([0.0, 1.0], r"hop 0 is 0, below 1e-06"),
        ([1.0, 0.0], r"hops 0 to 1 multiply to 0,"),
        ([1.0, 1.0, 0.9 / MAX_SHRINK], r"hops 0 to 2 multiply to 0.00352, 1 at hop 0; beyond"),
        ([0.5] * 10, r"hops 0 to 9 multiply"),
        ([1.0, 1e4, 1e4], r"hops 0 to 2 multiply to 1e\+08"),
    ],
)
def test_collapsing_products_are_refused_with_the_bound(scales: list[float], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        fold_path(plan(scales, "hidden_state"))
    assert fold_path(plan(scales, "mlp_output"))
