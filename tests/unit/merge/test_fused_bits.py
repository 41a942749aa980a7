"""The fused CPU path gives the bits of the torch path, whatever the cutting and the threads."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_lab import make_coefficients

from evoserve.manifest.methods import METHOD_NAMES, TRAITS
from evoserve.merge import fused
from evoserve.merge.methods import METHODS
from evoserve.merge.torch_path import CHUNK, TorchStatistics, combine, needs_whole_tensor

FUSED = [name for name in METHOD_NAMES if not name.startswith("della")]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    method = draw(st.sampled_from(FUSED))
    least, most = TRAITS[method].models
    count = draw(st.integers(least, most or 4))
    has_base = {"required": True, "none": False, "optional": draw(st.booleans())}[
        TRAITS[method].base
    ]
    size = draw(st.sampled_from([1, 2, 15, 16, 17, 255, 1000, 1024, 1025, 4099, CHUNK + 33]))
    weight = st.one_of(st.floats(-1.5, 1.5), st.sampled_from([0.0, 1.0, -1.0, 0.5]))
    weights = draw(st.lists(weight, min_size=count, max_size=count))
    if method in ("linear", "karcher") and abs(sum(weights)) < 0.1:
        weights[0] += 1.0
    numbers = st.lists(st.floats(0.01, 1.0), min_size=count, max_size=count)
    options: dict[str, object] = {}
    if "normalize" in TRAITS[method].options:
        options["normalize"] = draw(st.booleans())
    if "lambda" in TRAITS[method].options:
        options["lambda"] = draw(st.sampled_from([1.0, 0.4, -1.0]))
    if "rescale" in TRAITS[method].options:
        options["rescale"] = draw(st.sampled_from(["density", "l1", "none"]))
    if method == "linear":
        options["normalize"] = draw(st.booleans())
    return {
        "method": method,
        "num_inputs": count + has_base,
        "size": size,
        "coefficients": make_coefficients(
            method,
            weights,
            draw(numbers),
            gammas=draw(st.lists(st.floats(0, 0.5), min_size=count, max_size=count)),
            t=draw(st.floats(0, 1)),
            split_at=draw(st.integers(0, size)),
            has_base=has_base,
            **options,
        ),
    }


def random_inputs(case: dict[str, object], seed: int, dtypes: list[torch.dtype], coarse: bool):
    """Close fine-tunes; `coarse` rounds them so that magnitudes tie."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(case["size"], generator=generator) * 0.02
    inputs = [base]
    for _ in range(case["num_inputs"] - 1):
        inputs.append(base + torch.randn(case["size"], generator=generator) * 0.004)
    if coarse:
        inputs = [(x * 512).round() / 512 for x in inputs]
    return [x.to(dtype) for x, dtype in zip(inputs, dtypes, strict=False)]


def cut(pool: ThreadPoolExecutor | None, step: int) -> fused.Spans:
    def spans(num_elements: int, piece: Callable[[int, int], None]) -> None:
        starts = list(range(0, num_elements, step))
        ends = [min(at + step, num_elements) for at in starts]
        list((pool.map if pool else map)(piece, starts, ends))

    return spans


@settings(max_examples=250, deadline=None)
@given(
    case=cases(),
    seed=st.integers(0, 2**31),
    halves=st.lists(st.booleans(), min_size=5, max_size=5),
    merge_dtype=st.sampled_from(DTYPES),
    out_dtype=st.sampled_from(DTYPES),
    threads=st.sampled_from([1, 2, 5]),
    coarse=st.booleans(),
)
def test_fused_equals_torch_bit_for_bit(
    case, seed, halves, merge_dtype, out_dtype, threads, coarse
) -> None:
    dtypes = [torch.bfloat16 if half else torch.float32 for half in halves]
    inputs = random_inputs(case, seed, dtypes, coarse)
    method, c = METHODS[case["method"]], case["coefficients"]
    reference = method(c, TorchStatistics(inputs))
    assert not needs_whole_tensor(reference)
    expected = combine(reference, inputs, 0).to(merge_dtype).to(out_dtype)
    with ThreadPoolExecutor(threads) as pool:
        spans = cut(pool if threads > 1 else None, CHUNK)
        combination = method(c, fused.FusedStatistics(inputs, spans))
        out = torch.full((case["size"],), float("nan"), dtype=out_dtype)
        fused.combine_into(combination, inputs, merge_dtype, out, spans)
    assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("method", ["linear", "dare_ties", "ties"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_torch_path_in_parts_equals_the_whole(method: str, chunk: int) -> None:
    inputs = random_inputs({"size": 999, "num_inputs": 3}, 1, DTYPES[:1] * 3, True)
    c = make_coefficients(method, [0.4] * (2 + (method == "linear")), [0.5] * 3)
    combination = METHODS[method](c, TorchStatistics(inputs))
    step = 100 * chunk
    parts = [
        combine(combination, [x[at : at + step] for x in inputs], at) for at in range(0, 999, step)
    ]
    assert torch.equal(torch.cat(parts), combine(combination, inputs, 0))


@pytest.mark.parametrize("special", [float("inf"), float("-inf"), 3.3e38, 1e-45, -0.0, 65520.0])
def test_extreme_values_round_as_in_torch(special: float) -> None:
    values = torch.tensor([special, -special, 1.0, 2**-126 * 1.5] * 300)
    for dtype in DTYPES:
        for out_dtype in DTYPES:
            out = torch.empty(len(values), dtype=out_dtype)
            fused.combine_into(
                METHODS["passthrough"](
                    make_coefficients("passthrough", [1.0]), TorchStatistics([values])
                ),
                [values],
                dtype,
                out,
                cut(None, CHUNK),
            )
            expected = values.to(dtype).to(out_dtype)
            assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))
