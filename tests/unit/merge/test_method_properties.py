"""What every method promises: one-hot weights, ends of arcs, counts, ties, no NaN at the edges."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_lab import make_coefficients, merge_fused, merge_with_torch

from evoserve.manifest.methods import METHOD_NAMES, TRAITS
from evoserve.merge.combination import DeltaSum, KeepMagnitude, Linear
from evoserve.merge.fused import FusedStatistics
from evoserve.merge.methods import METHODS
from evoserve.merge.torch_path import TorchStatistics, apply_keep

EDGES = {
    "constant": lambda n: [torch.full((n,), 0.5)] * 3,
    "zero": lambda n: [torch.zeros(n)] * 3,
    "parallel": lambda n: [torch.ones(n), 2 * torch.ones(n), 3 * torch.ones(n)],
    "antiparallel": lambda n: [torch.ones(n), -torch.ones(n), torch.ones(n)],
    "opposed": lambda n: [torch.zeros(n), torch.ones(n), -torch.ones(n)],
    "one zero": lambda n: [torch.arange(n) - 1.5, torch.zeros(n), torch.arange(n) + 0.5],
    "tiny": lambda n: [torch.full((n,), 1e-30), torch.full((n,), -1e-30), torch.zeros(n)],
}


def test_every_method_of_the_manifest_is_in_the_table() -> None:
    assert tuple(sorted(METHODS)) == tuple(sorted(METHOD_NAMES))


@pytest.mark.parametrize("size", [0, 1, 2, 33])
@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("method", METHOD_NAMES)
def test_no_nan_at_the_edges(method: str, edge: str, size: int) -> None:
    count = min(TRAITS[method].models[1] or 2, 2)
    has_base = TRAITS[method].base == "required"
    inputs = EDGES[edge](size)[: count + has_base]
    c = make_coefficients(
        method, [0.6, 0.5][:count], [0.5, 0.7][:count], epsilons=[0.1] * count, split_at=1
    )
    merged = merge_with_torch(method, c, inputs)
    assert merged.shape == inputs[0].shape
    assert bool(merged.isfinite().all())
    if not method.startswith("della"):
        assert torch.equal(merge_fused(method, c, inputs), merged)


@pytest.mark.parametrize("options", [{"filter_wise": True}])
@pytest.mark.parametrize("edge", EDGES)
def test_no_nan_by_rows(edge: str, options: dict[str, bool]) -> None:
    inputs = [x.reshape(4, 2) for x in EDGES[edge](8)]
    c = make_coefficients("model_stock", [1.0, 1.0], **options)
    assert bool(merge_with_torch("model_stock", c, inputs).isfinite().all())
    for row_wise in (False, True):
        c = make_coefficients("nuslerp", [0.4, 0.4], flatten=False, row_wise=row_wise)
        assert bool(merge_with_torch("nuslerp", c, inputs[:2]).isfinite().all())


def three(size: int = 500) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("method", ["slerp", "split_slerp"])
def test_arc_ends_at_its_inputs_bitwise(method: str) -> None:
    inputs = three()[:2]
    for t, at, expected in [(0.0, 500, inputs[0]), (1.0, 500, inputs[1]), (1.0, 0, inputs[0])]:
        c = make_coefficients(method, [1.0], t=t, split_at=at)
        if method == "split_slerp" or at == 500:
            assert torch.equal(merge_fused(method, c, inputs), expected)


def test_slerp_keeps_the_norm_of_unit_vectors_and_the_angle() -> None:
    a, b = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    merged = merge_fused("slerp", make_coefficients("slerp", [1.0], t=1 / 3), [a, b])
    expected = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6), 0.0])
    assert torch.allclose(merged, expected, atol=1e-7)


def test_split_slerp_switches_at_the_split() -> None:
    inputs = three()[:2]
    merged = merge_fused(
        "split_slerp", make_coefficients("split_slerp", [1.0], split_at=123), inputs
    )
    low, high = (
        merge_fused("slerp", make_coefficients("slerp", [1.0], t=t), inputs) for t in (0.3, 0.7)
    )
    assert torch.equal(merged, torch.cat([low[:123], high[123:]]))


def test_karcher_of_two_equal_weights_is_the_middle_of_the_arc() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    merged = merge_fused("karcher", make_coefficients("karcher", [1.0, 1.0]), [a, b])
    assert torch.allclose(merged, torch.tensor([math.sqrt(2), math.sqrt(2)]), atol=1e-6)
    weighted = merge_fused("karcher", make_coefficients("karcher", [3.0, 1.0], tol=1e-9), [a, b])
    angle = math.atan2(float(weighted[1]), float(weighted[0]))
    assert angle == pytest.approx(math.pi / 8, abs=1e-6)


def test_sign_election_by_hand() -> None:
    base = torch.zeros(4)
    first, second = torch.tensor([1.0, 1.0, -1.0, 2.0]), torch.tensor([2.0, -3.0, 1.0, -2.0])
    c = make_coefficients("dare_ties", [1.0, 1.0])
    assert merge_fused("dare_ties", c, [base, first, second]).tolist() == [3.0, -3.0, 1.0, 2.0]
    c = make_coefficients("dare_ties", [0.5, 1.0], normalize=True, **{"lambda": 2.0})
    expected = [2 * (0.5 + 2) / 1.5, -6.0, 2.0, -4.0]
    merged = merge_fused("dare_ties", c, [base, first, second])
    assert torch.allclose(merged, torch.tensor(expected))


def test_weights_may_sum_to_two() -> None:
    base, first, second = three()
    merged = merge_fused(
        "dare_ties", make_coefficients("dare_ties", [1.0, 1.0]), [base, first, first]
    )
    assert torch.allclose(merged, base + 2 * (first - base), atol=1e-5)
    assert not torch.equal(second, first)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.floats(0.001, 0.999),
    st.floats(0, 1),
    st.integers(1, 8),
    st.integers(0, 2**31),
)
def test_trims_keep_exact_counts_and_lower_indices(
    size: int, density: float, gamma: float, levels: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(0, 2, (size,), generator=generator) * 2.0 - 1
    delta = sign * torch.randint(1, levels + 1, (size,), generator=generator)
    inputs = [torch.zeros(size), delta]
    ranked = sorted(range(size), key=lambda i: (-abs(float(delta[i])), i))
    num_kept = max(1, int(density * size))
    assert kept_by("ties", inputs, density, gamma) == set(ranked[:num_kept])
    num_kept = int(density * size)
    top = min(int(gamma * size), size - num_kept)
    assert kept_by("breadcrumbs", inputs, density, gamma) == set(ranked[top : top + num_kept])


def kept_by(method: str, inputs: list[torch.Tensor], density: float, gamma: float) -> set[int]:
    c = make_coefficients(method, [1.0], [density], gammas=[gamma])
    found = []
    for stats in (TorchStatistics(inputs), FusedStatistics(inputs, lambda n, piece: piece(0, n))):
        combination = METHODS[method](c, stats)
        assert isinstance(combination, DeltaSum)
        keep = combination.terms[0].keep
        assert isinstance(keep, KeepMagnitude)
        found.append(set(apply_keep(inputs[1], keep, 0).nonzero().flatten().tolist()))
    assert found[0] == found[1]
    return found[0]


def test_della_favours_large_magnitudes_and_keeps_the_mean() -> None:
    size = 1 << 16
    base, delta = torch.zeros(1, size), torch.linspace(0.001, 1.0, size)[None]
    c = make_coefficients("della_linear", [1.0], [0.4], epsilons=[0.2], rescale="none")
    kept = merge_with_torch("della_linear", c, [base, delta]) != 0
    small, large = kept[:, : size // 4].float().mean(), kept[:, -size // 4 :].float().mean()
    assert float(small) == pytest.approx(0.25, abs=0.02)
    assert float(large) == pytest.approx(0.55, abs=0.02)
    c = make_coefficients("della_linear", [1.0], [0.4], epsilons=[0.2])
    merged = merge_with_torch("della_linear", c, [base, delta])
    assert float(merged.mean()) == pytest.approx(float(delta.mean()), rel=0.02)


@pytest.mark.parametrize("rescale", ["density", "l1", "none"])
def test_dare_rescales(rescale: str) -> None:
    size = 1 << 16
    base, delta = torch.zeros(size), torch.randn(size, generator=torch.Generator().manual_seed(1))
    c = make_coefficients("dare_linear", [1.0], [0.25], rescale=rescale)
    merged = merge_fused("dare_linear", c, [base, delta])
    kept = merged != 0
    factor = {"density": 4.0, "none": 1.0}.get(
        rescale, float(delta.abs().sum() / delta[kept].abs().sum())
    )
    assert torch.allclose(merged[kept], delta[kept] * factor, rtol=1e-6)
    if rescale == "l1":
        assert float(merged.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)


def test_linear_reads_nothing_of_weight_zero() -> None:
    bad = torch.full((4,), float("nan"))
    good = torch.tensor([-0.0, 1.0, 2.0, 3.0])
    c = make_coefficients("linear", [0.0, 0.7])
    assert METHODS["linear"](c, TorchStatistics([bad, good])) == Linear((0.0, 1.0))
    merged = merge_fused("linear", c, [bad, good])
    assert torch.equal(merged.view(torch.int32), good.view(torch.int32))
