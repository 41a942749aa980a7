"""Packed products and lookups against plain ones, of every shape, dtype and number of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from evoserve.model.cpu.packed import PackedEmbedding, PackedLinear, pack_dense, pack_int8
from evoserve.model.quantize import Int8Embedding, Int8Linear, quantize_weight

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {
    "num_rows": st.integers(1, 60),
    "num_in": st.integers(1, 40),
    "num_out": st.integers(1, 70),
    "has_bias": st.booleans(),
    "seed": st.integers(0, 2**31),
}


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantized(weight: torch.Tensor, bias: torch.Tensor | None) -> Int8Linear:
    return Int8Linear(*quantize_weight(weight, 1), bias)


@given(**SHAPES)
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dense_product_is_the_product(
    dtype: torch.dtype, num_rows: int, num_in: int, num_out: int, has_bias: bool, seed: int
) -> None:
    inputs = random(num_rows, num_in, seed=seed)
    weight = random(num_out, num_in, seed=seed + 1).to(dtype)
    bias = random(num_out, seed=seed + 2) if has_bias else None
    found = pack_dense(weight, bias)(inputs)
    torch.testing.assert_close(
        found, functional.linear(inputs, weight.float(), bias), atol=1e-4, rtol=1e-4
    )


@given(**SHAPES)
@settings(max_examples=60, deadline=None)
def test_an_int8_product_has_the_bits_of_the_plain_one(
    num_rows: int, num_in: int, num_out: int, has_bias: bool, seed: int
) -> None:
    inputs, weight = random(num_rows, num_in, seed=seed), random(num_out, num_in, seed=seed + 1)
    bias = random(num_out, seed=seed + 2) if has_bias else None
    assert torch.equal(pack_int8(weight, bias)(inputs), quantized(weight, bias)(inputs))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_int8_weight_that_is_widened_in_portions_has_the_bits_of_the_plain_one(
    dtype: torch.dtype,
) -> None:
    weight, inputs = random(1041, 21, seed=3).to(dtype), random(3, 21, seed=4)
    assert torch.equal(pack_int8(weight)(inputs), quantized(weight.float(), None)(inputs))


def test_int8_rows_of_zeros_and_of_nan() -> None:
    inputs, weight = random(4, 24, seed=1), random(20, 24, seed=2)
    inputs[1], inputs[2, 5], weight[3] = 0, torch.nan, 0
    found, expected = pack_int8(weight)(inputs), quantized(weight, None)(inputs)
    assert torch.isnan(found[2]).all()
    kept = [0, 1, 3]
    assert torch.equal(found[kept], expected[kept])
    assert not found[1].any()
    assert not found[kept, 3].any()


def packings(weight: torch.Tensor) -> list[PackedLinear]:
    return [*(pack_dense(weight.to(dtype)) for dtype in DTYPES), pack_int8(weight)]


@given(rows=st.lists(st.integers(0, 19), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_a_row_has_the_same_bits_in_any_company(rows: list[int]) -> None:
    inputs, weight = random(20, 40, seed=3), random(48, 40, seed=4)
    for linear in packings(weight):
        alone = torch.cat([linear(inputs[[row]]) for row in rows])
        assert torch.equal(linear(inputs[rows]), alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_looking_up_gives_the_rows(dtype: torch.dtype) -> None:
    weight = random(37, 21, seed=5).to(dtype)
    ids = torch.tensor([0, 36, 15, 16, 15])
    assert torch.equal(PackedEmbedding(pack_dense(weight))(ids), weight[ids].float())


def test_looking_up_int8_rows_has_the_bits_of_the_plain_lookup() -> None:
    weight, ids = random(37, 21, seed=6), torch.tensor([0, 36, 15, 16])
    plain = Int8Embedding(*quantize_weight(weight, 1), torch.float32)
    assert torch.equal(PackedEmbedding(pack_int8(weight))(ids), plain(ids))


def test_bytes_are_those_of_the_stored_dtype() -> None:
    weight = random(32, 16, seed=7)
    assert [linear.num_bytes for linear in packings(weight)] == [
        32 * 16 * 4 + 32 * 4,
        32 * 16 * 2 + 32 * 4,
        32 * 16 * 2 + 32 * 4,
        32 * 16 + 32 * 4 + 32 * 4,
    ]
