"""Paged, chunked, batched: however tokens are fed, the logits are the same."""

from functools import cache
from itertools import cycle
from pathlib import Path
from tempfile import mkdtemp

import model_lab as lab
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.model.backend import compiled_backend
from evoserve.model.kv_cache import SlotCache

FAMILIES = ["llama", "mistral-window", "qwen2-window", "qwen3"]
CASES = [f"{family}{kernels}" for family in FAMILIES for kernels in ("", "+cpu")]


@cache
def built(case: str) -> lab.PathModel:
    family, _, kernels = case.partition("+")
    folder = lab.make_checkpoint(Path(mkdtemp()), seed=9, **lab.FAMILY_CASES[family])
    scaling = {"per_hop": [0.9, 1.1, 0.8, -1.0, 1.2, 1.0]}
    path = ["a[0:3]", "a[1]", "a[2:4]"]
    recipe = lab.open_recipe({"a": folder}, path=path, scaling=scaling)
    return lab.build(recipe, backend=compiled_backend(2) if kernels else None)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=12),
)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("case", CASES)
def test_any_schedule_gives_the_logits_of_one_prefill(
    case: str, lengths: list[int], sizes: list[int]
) -> None:
    """`sizes` are dealt out in turn: how many tokens each sequence gets in each batch."""
    model = built(case)
    prompts = [lab.random_ids(length, seed=seq) for seq, length in enumerate(lengths)]
    tape = lab.Tape(model, len(prompts), max_len=32)
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    deal = cycle([*sizes, 1])
    while any(tape.lengths[seq] < len(ids) for seq, ids in enumerate(prompts)):
        starts = [(seq, ids[tape.lengths[seq] :]) for seq, ids in enumerate(prompts)]
        dealt = [(seq, rest[: next(deal)]) for seq, rest in starts]
        chunks = [chunk for chunk in dealt if chunk[1]] or [start for start in starts if start[1]]
        for (seq, _), logits in zip(chunks, tape.feed(chunks), strict=True):
            found[seq].append(logits)
    for ids, parts in zip(prompts, found, strict=True):
        expected = lab.all_logits(model, ids)
        torch.testing.assert_close(torch.cat(parts), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["llama", "mistral-window"])
def test_decodes_of_very_different_length_do_not_disturb_each_other(case: str) -> None:
    model = built(case)
    lengths = [1, 2, 40, 600, 7, 299]
    prompts = [lab.random_ids(n + 1, seed=n) for n in lengths]
    tape = lab.Tape(model, len(prompts), max_len=640)
    tape.feed([(seq, ids[:-1]) for seq, ids in enumerate(prompts)])
    parts = tape.feed([(seq, ids[-1:]) for seq, ids in enumerate(prompts)])
    for ids, logits in zip(prompts, parts, strict=True):
        torch.testing.assert_close(logits[0], lab.all_logits(model, ids)[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ["llama", "llama+cpu"])
def test_only_the_asked_rows_come_back_in_float32(case: str) -> None:
    model = built(case)
    ids = lab.random_ids(6)
    whole = lab.all_logits(model, ids)
    batch = lab.single_batch(ids, rows=[4, 1])
    logits = model.forward(batch, model.new_kv_cache(8, lab.BLOCK_SIZE))
    assert logits.dtype == torch.float32
    assert logits.shape == (2, model.vocab_size)
    torch.testing.assert_close(logits, whole[[4, 1]], atol=1e-5, rtol=1e-5)
    none = lab.single_batch(ids, rows=[])
    assert model.forward(none, model.new_kv_cache(8, lab.BLOCK_SIZE)).shape[0] == 0


@pytest.mark.parametrize("case", ["qwen3", "qwen3+cpu"])
def test_sizes_are_what_they_say(case: str) -> None:
    model = built(case)
    cache = model.new_kv_cache(5, 4)
    assert (model.num_steps, model.num_layers) == (6, 4)
    assert (cache.num_blocks, cache.block_size) == (5, 4)
    assert cache.num_bytes == 5 * model.kv_bytes_per_block(4)
    assert model.max_model_len == 256


def test_keys_and_values_of_a_slot_cache() -> None:
    cache = built("qwen3").new_kv_cache(5, 4)
    assert isinstance(cache, SlotCache)
    assert cache.keys(3).shape == (5, 4, 2, 24)
    assert cache.values(3).data_ptr() != cache.keys(3).data_ptr()


@pytest.mark.parametrize("case", ["llama", "llama+cpu"])
def test_every_step_has_kv_slots_of_its_own(case: str) -> None:
    model = built(case)
    cache = model.new_kv_cache(4, lab.BLOCK_SIZE)
    data = lab.cache_data(cache).zero_()
    model.forward(lab.single_batch(lab.random_ids(5), rows=[4]), cache)
    first, repeat = data[1], data[3]
    assert first.abs().sum() > 0
    assert not torch.allclose(first, repeat)
