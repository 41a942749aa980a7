"""Scales of a path: the three forms, hop 0, float32 rounding, refusals."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoserve.errors import ManifestError
from evoserve.manifest.parts import NetworkScaling, ScalingSpec
from evoserve.manifest.refs import LayerRef
from evoserve.model.scaling import hop_scales

STEPS = [LayerRef("a", 0), LayerRef("b", 1), LayerRef("b", 1), LayerRef("a", 2)]
COUNTS = {"a": 3, "b": 2}.__getitem__


def float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def test_default_applies_to_every_hop() -> None:
    assert hop_scales(ScalingSpec(default=0.5), STEPS, COUNTS) == (0.5,) * 4


def test_matrix_entries_override_the_default_even_from_the_embedding() -> None:
    matrix = (("embed", "a[0]", 2.0), ("b[1]", "b[1]", -0.25), ("b[1]", "a[2]", 3.0))
    scaling = ScalingSpec(default=0.5, matrix=matrix)
    assert hop_scales(scaling, STEPS, COUNTS) == (2.0, 0.5, -0.25, 3.0)


@given(st.lists(st.floats(-1e4, 1e4), min_size=4, max_size=4))
def test_per_hop_is_rounded_once_to_float32(values: list[float]) -> None:
    scales = hop_scales(ScalingSpec(per_hop=tuple(values)), STEPS, COUNTS)
    assert scales == tuple(float32(value) for value in values)


def test_network_is_one_plus_a_linear_layer_over_tanh() -> None:
    network = NetworkScaling(
        pool=("b", "a"),
        weights=(((0.3, -0.2, 0.5), (1.0, 2.0, -1.0)), ((0.7, -0.4),)),
        biases=((0.1, -0.1), (0.05,)),
    )
    positions, before = [2, 1, 1, 4], [-1, 2, 1, 1]
    expected = []
    for hop, (i, j) in enumerate(zip(before, positions, strict=True)):
        x = ((i + 1) / 5, j / 5, hop / 4)
        u = math.tanh(0.3 * x[0] - 0.2 * x[1] + 0.5 * x[2] + 0.1)
        v = math.tanh(1.0 * x[0] + 2.0 * x[1] - 1.0 * x[2] - 0.1)
        expected.append(1 + 0.7 * u - 0.4 * v + 0.05)
    scales = hop_scales(ScalingSpec(network=network), STEPS, COUNTS)
    assert scales == pytest.approx(expected, rel=1e-7)
    assert all(float32(scale) == scale for scale in scales)


def test_a_network_of_zeros_scales_by_one() -> None:
    network = NetworkScaling(pool=("a", "b"), weights=(((0.0, 0.0, 0.0),),), biases=((0.0,),))
    assert hop_scales(ScalingSpec(network=network), STEPS, COUNTS) == (1.0,) * 4


def test_a_wrong_count_names_both_numbers() -> None:
    with pytest.raises(ManifestError, match=r"scaling.per_hop: has 3 numbers for a path of 4"):
        hop_scales(ScalingSpec(per_hop=(1.0, 1.0, 1.0)), STEPS, COUNTS)


def test_a_scale_beyond_float32_is_refused() -> None:
    network = NetworkScaling(pool=("a", "b"), weights=(((0.0, 0.0, 0.0),),), biases=((1e300,),))
    with pytest.raises(ManifestError, match=r"scaling.network: scale 1e\+300 of hop 0"):
        hop_scales(ScalingSpec(network=network), STEPS, COUNTS)
