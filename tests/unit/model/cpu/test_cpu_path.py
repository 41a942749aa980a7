"""The compiled path against plain torch, for every family, weight format and way to batch."""

from functools import cache
from itertools import cycle
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import model_lab as lab
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evoserve.model.backend import compiled_backend, torch_backend
from evoserve.model.batch import ForwardBatch
from evoserve.model.placement import Quantization

ODD_SHAPES: dict[str, dict[str, Any]] = {
    "odd": {"hidden_size": 36, "intermediate_size": 50, "head_dim": 6, "vocab_size": 101},
    "one-kv-head": {"num_attention_heads": 16, "num_key_value_heads": 1, "head_dim": 4},
    "no-groups": {
        "hidden_size": 36,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "head_dim": 20,
    },
}
CASES = {**lab.FAMILY_CASES, **{n: {"model_type": "llama", **s} for n, s in ODD_SHAPES.items()}}


@cache
def checkpoint(case: str, dtype: torch.dtype = torch.float32) -> Path:
    folder = lab.make_checkpoint(Path(mkdtemp()), seed=5, **CASES[case])
    if dtype != torch.float32:
        file = folder / "model.safetensors"
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def pair(
    folder: Path, quantization: Quantization | None = None, **fields: Any
) -> tuple[lab.PathModel, lab.PathModel]:
    """Plain, and compiled."""
    recipe = lab.open_recipe({"a": folder}, **fields)
    return (
        lab.build(recipe, backend=torch_backend("cpu", torch.float32, quantization)),
        lab.build(recipe, backend=compiled_backend(2, quantization)),
    )


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_plain_torch(case: str) -> None:
    plain, compiled = pair(checkpoint(case))
    ids = lab.random_ids(45)
    torch.testing.assert_close(
        lab.all_logits(compiled, ids), lab.all_logits(plain, ids), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("case", ["llama", "qwen3", "odd"])
def test_int8_logits_are_those_of_plain_torch(case: str) -> None:
    """A rounding that falls the other way moves one activation by one step of 2032."""
    plain, compiled = pair(checkpoint(case), "int8")
    ids = lab.random_ids(45)
    torch.testing.assert_close(
        lab.all_logits(compiled, ids), lab.all_logits(plain, ids), atol=1e-2, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_kept_as_they_are_and_lose_nothing(dtype: torch.dtype) -> None:
    plain, compiled = pair(checkpoint("llama", dtype))
    ids = lab.random_ids(45)
    torch.testing.assert_close(
        lab.all_logits(compiled, ids), lab.all_logits(plain, ids), atol=2e-5, rtol=1e-4
    )
    assert compiled.weight_bytes < 0.65 * plain.weight_bytes


@pytest.mark.parametrize("target", ["mlp_output", "hidden_state"])
def test_paths_with_repeats_and_scales(target: str) -> None:
    scaling = {"target": target, "per_hop": [0.9, 1.1, 0.8, -1.0, 1.2, 0.5]}
    plain, compiled = pair(checkpoint("llama"), path=["a[0:3]", "a[1]", "a[2:4]"], scaling=scaling)
    ids = lab.random_ids(30)
    torch.testing.assert_close(
        lab.all_logits(compiled, ids), lab.all_logits(plain, ids), atol=2e-5, rtol=1e-4
    )


@cache
def windowed(quantization: Quantization | None) -> tuple[lab.PathModel, list[torch.Tensor]]:
    """A model with windows, and the logits of four prompts in one prefill each."""
    model = pair(checkpoint("mistral-window"), quantization)[1]
    return model, [lab.all_logits(model, lab.random_ids(33, seed=seed)) for seed in range(4)]


@given(
    lengths=st.lists(st.integers(1, 33), min_size=1, max_size=4),
    sizes=st.lists(st.integers(0, 13), min_size=1, max_size=12),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("quantization", [None, "int8"])
def test_any_schedule_gives_the_very_bits_of_one_prefill(
    quantization: Quantization | None, lengths: list[int], sizes: list[int]
) -> None:
    """Alone, batched, chunked, decoded: a token's logits are the same to the last bit."""
    model, expected = windowed(quantization)
    tape = lab.Tape(model, len(lengths), max_len=36)
    deal = cycle([*sizes, 1])
    while any(tape.lengths[seq] < length for seq, length in enumerate(lengths)):
        chunks = []
        for seq, length in enumerate(lengths):
            start = tape.lengths[seq]
            ids = lab.random_ids(33, seed=seq)[start : min(length, start + next(deal))]
            if ids:
                chunks.append((seq, ids))
        if not chunks:  # the deal went round without a token for those that need one
            seq = next(seq for seq, length in enumerate(lengths) if tape.lengths[seq] < length)
            chunks = [(seq, lab.random_ids(33, seed=seq)[tape.lengths[seq] :][:1])]
        starts = [tape.lengths[seq] for seq, _ in chunks]
        found = tape.feed(chunks)
        for (seq, ids), start, logits in zip(chunks, starts, found, strict=True):
            assert torch.equal(logits, expected[seq][start : start + len(ids)])


@pytest.mark.parametrize("block_size", [1, 5, 16, 24, 64])
def test_blocks_of_any_size(block_size: int) -> None:
    plain, compiled = pair(checkpoint("qwen2-window"))
    ids = lab.random_ids(70)
    count = -(-len(ids) // block_size)
    tables = torch.arange(count).flip(0)[None]
    cache_ = compiled.new_kv_cache(count, block_size)
    lab.cache_data(cache_).fill_(float("nan"))
    at = torch.arange(len(ids))
    slots = tables[0, at // block_size] * block_size + at % block_size
    for span in (slice(0, 41), slice(41, 42), slice(42, 70)):
        size = span.stop - span.start
        batch = ForwardBatch(
            torch.tensor(ids)[span], at[span], slots[span], (size,), (span.stop,), tables,
            torch.arange(size), int(size == 1),
        )  # fmt: skip
        logits = compiled.forward(batch, cache_)
    torch.testing.assert_close(logits, lab.all_logits(plain, ids)[42:70], atol=2e-5, rtol=1e-4)


def test_a_token_that_is_not_finite_spoils_no_other_sequence() -> None:
    folder = checkpoint("llama")
    model = lab.build(lab.open_recipe({"a": folder}), backend=compiled_backend(1))
    tape = lab.Tape(model, 2)
    tape.feed([(0, [1, 2, 3]), (1, [4, 5])])
    expected = tape.feed([(1, [6])])[0]
    lab.cache_data(tape.cache)[:, tape.tables[0, 0]] = float("nan")
    tape.lengths[1] = 2
    spoiled, sound = tape.feed([(0, [9]), (1, [6])])
    assert torch.isnan(spoiled).all()
    assert torch.equal(sound, expected)


def test_another_models_cache_is_refused() -> None:
    plain, compiled = pair(checkpoint("llama"))
    batch = lab.single_batch([1], rows=[0])
    with pytest.raises(TypeError, match="PanelCache"):
        compiled.forward(batch, plain.new_kv_cache(1, 4))
    with pytest.raises(TypeError, match="SlotCache"):
        plain.forward(batch, compiled.new_kv_cache(1, 4))
