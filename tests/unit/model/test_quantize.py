"""int8: the law of the integers, exact whatever the kernel, the batch or the threads."""

from pathlib import Path

import model_lab as lab
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.model.placement import Placement, make_linear, make_table, matrix_bytes
from evoserve.model.quantize import (
    TOKEN_LEVELS,
    WEIGHT_LEVELS,
    Int8Embedding,
    Int8Linear,
    exact_float_mm,
    int8_product,
    padded_int_mm,
    quantize,
    quantize_weight,
    token_levels,
)

INT8 = Placement("cpu", torch.float32, "int8")


def random_matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    """Gaussian rows of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-6, 6, rows)[:, None]
    return torch.randn(rows, columns, generator=generator) * sizes


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 99), st.sampled_from([127, 2032]))
@settings(deadline=None)
def test_every_row_is_within_half_a_step(rows: int, columns: int, seed: int, levels: int) -> None:
    values = random_matrix(rows, columns, seed)
    quantized, scales = quantize(values, levels)
    assert quantized.abs().amax(-1).tolist() == [levels] * rows
    error = (quantized * scales[:, None] - values).abs()
    assert (error <= 0.5001 * scales[:, None]).all()


def test_ties_go_to_the_even_integer() -> None:
    values = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, 127.0]])
    assert quantize(values, 127)[0].tolist() == [[0, 2, 2, 0, -2, 127]]


def test_rows_of_zeros_and_of_nearly_nothing_make_no_nan() -> None:
    values = torch.tensor([[0.0, 0.0], [1e-45, -1e-45], [3e38, -3e38]])
    for levels in (WEIGHT_LEVELS, TOKEN_LEVELS):
        quantized, scales = quantize(values, levels)
        assert torch.isfinite(scales).all()
        assert (scales > 0).all()
        assert quantized[0].tolist() == [0, 0]


@pytest.mark.parametrize("num_in", [1, 63, 1024, 1025, 5632])
def test_the_product_is_exact_at_its_largest(num_in: int) -> None:
    levels = token_levels(num_in)
    generator = torch.Generator().manual_seed(num_in)
    tokens = torch.randint(-levels, levels + 1, (5, num_in), generator=generator)
    tokens[0], tokens[1] = levels, -levels
    weight = torch.randint(-WEIGHT_LEVELS, WEIGHT_LEVELS + 1, (7, num_in), generator=generator)
    weight[0], weight[1] = WEIGHT_LEVELS, -WEIGHT_LEVELS
    exact = tokens @ weight.t()
    assert exact.abs().max() < 2**31
    assert torch.equal(int8_product(tokens.to(torch.int16), weight.to(torch.int8)).long(), exact)


@pytest.mark.parametrize("num_in", [1, 576, 8321, 14336, 29568])
def test_int32_holds_every_sum(num_in: int) -> None:
    assert 512 < token_levels(num_in) <= TOKEN_LEVELS
    assert token_levels(num_in) * WEIGHT_LEVELS * num_in < 2**31


@pytest.mark.parametrize("num_rows", [1, 16, 17, 32, 33])
def test_the_path_for_gpus_gives_the_same_integers(num_rows: int) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    rows = torch.randint(-127, 128, (num_rows, 48), generator=generator).to(torch.int8)
    weight = torch.randint(-127, 128, (24, 48), generator=generator).to(torch.int8)
    assert torch.equal(padded_int_mm(rows, weight), exact_float_mm(rows, weight))


def test_a_token_does_not_depend_on_its_batch() -> None:
    linear = Int8Linear(*quantize_weight(random_matrix(50, 1500, 1), 1))
    inputs = random_matrix(40, 1500, 2)
    together = linear(inputs)
    for count in (1, 3, 17):
        apart = torch.cat([linear(part) for part in inputs.split(count)])
        assert torch.equal(apart, together)


def test_a_token_that_is_not_finite_shows_it_and_spoils_no_other() -> None:
    linear = Int8Linear(*quantize_weight(random_matrix(8, 16, 1), 1))
    inputs = torch.ones(4, 16)
    whole = linear(inputs)
    inputs[1, 3], inputs[2, 5] = float("nan"), float("inf")
    out = linear(inputs)
    assert torch.isnan(out[1:3]).all()
    assert torch.equal(out[[0, 3]], whole[[0, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_linear_is_near_the_exact_one(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(64, 256, generator=generator), torch.randn(64, generator=generator)
    inputs = torch.randn(9, 256, generator=generator).to(dtype)
    linear = make_linear(weight.clone(), bias.to(dtype), INT8, 1)
    out = linear(inputs)
    exact = inputs.float() @ weight.t() + bias
    assert out.dtype == dtype
    assert linear.num_out == 64
    assert (out.float() - exact).norm() / exact.norm() < 0.01
    assert linear.num_bytes == matrix_bytes(64, 256, torch.float32, INT8) + bias.to(dtype).nbytes


@pytest.mark.parametrize("num_threads", [1, 3])
def test_weights_quantised_in_pieces_are_the_same(num_threads: int) -> None:
    weight = random_matrix(333, 700, 4).to(torch.bfloat16)
    rows, scales = quantize_weight(weight, num_threads)
    whole, whole_scales = quantize(weight, WEIGHT_LEVELS)
    assert torch.equal(rows.to(torch.int16), whole)
    assert torch.equal(scales, whole_scales)


def test_a_table_is_held_once() -> None:
    table = make_table(random_matrix(20, 8, 5), INT8, 1)
    assert isinstance(table.embed, Int8Embedding)
    assert isinstance(table.head, Int8Linear)
    assert table.embed.weight is table.head.weight
    assert table.num_bytes == matrix_bytes(20, 8, torch.float32, INT8) == 20 * 8 + 20 * 4
    ids = torch.tensor([3, 19, 3])
    expected = table.head.weight[ids].float() * table.head.scales[ids][:, None]
    assert torch.equal(table.embed(ids), expected)


@pytest.fixture(scope="module", params=sorted(lab.FAMILY_CASES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("int8")
    return lab.make_checkpoint(where / request.param, **lab.FAMILY_CASES[request.param])


def build_int8(recipe: lab.Recipe, store: lab.WeightStore, num_threads: int = 1) -> lab.PathModel:
    backend = lab.torch_backend("cpu", torch.float32, "int8")
    return lab.build_model(recipe, store, backend, num_threads=num_threads)


def test_every_family_runs_near_its_float_model(folder: Path) -> None:
    store = lab.WeightStore()
    recipe = lab.open_recipe({"a": folder}, path=["a[0:3]", "a[1:4]"], scaling={"default": 0.9})
    plain, packed = lab.build(recipe, store), build_int8(recipe, store)
    ids = lab.random_ids(40)
    wanted, found = lab.all_logits(plain, ids), lab.all_logits(packed, ids)
    assert (found - wanted).norm() / wanted.norm() < 0.06
    assert packed.weight_bytes < 0.5 * plain.weight_bytes
    assert packed.num_layers == 4
    assert packed.num_steps == 6


def test_int8_shares_with_int8_alone_and_is_the_same_on_more_threads(folder: Path) -> None:
    store = lab.WeightStore()
    recipe = lab.open_recipe({"a": folder})
    plain = lab.build(recipe, store)
    first, second = build_int8(recipe, store), build_int8(recipe, store, num_threads=3)
    assert store.num_bytes == plain.weight_bytes + first.weight_bytes
    other = build_int8(recipe, lab.WeightStore(), num_threads=3)
    ids = lab.random_ids(12)
    logits = lab.all_logits(first, ids)
    assert torch.equal(lab.all_logits(second, ids), logits)
    assert torch.equal(lab.all_logits(other, ids), logits)
