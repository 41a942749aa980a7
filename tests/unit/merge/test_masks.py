"""The mask format, its statistics, and that three implementations agree on every bit."""

import hashlib
import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.merge.combination import DeltaSum, KeepRandom, Term
from evoserve.merge.fused import combine_into
from evoserve.merge.masks import density_threshold, hash_elements, keep_mask, mask_key

COUNT = 1 << 16
KEYS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


def numpy_hash(key: tuple[int, int], index: np.ndarray) -> np.ndarray:
    """The specification again, in wrapping 32-bit arithmetic."""
    low, high = index.astype(np.uint32), (index >> 32).astype(np.uint32)
    x = low ^ np.uint32(key[0])
    x = (x ^ (x >> 17)) * np.uint32(0xED5AD4BB)
    x = x ^ np.uint32(key[1]) ^ (high * np.uint32(0x9E3779B9))
    x = (x ^ (x >> 11)) * np.uint32(0xAC4C1B51)
    x = (x ^ (x >> 15)) * np.uint32(0x31848BAB)
    return x ^ (x >> 14)


def hashes(seed: int, model: str, tensor: str, count: int = COUNT) -> np.ndarray:
    return hash_elements(mask_key(seed, model, tensor), torch.arange(count)).numpy()


def test_key_words_are_the_start_of_a_sha256() -> None:
    digest = hashlib.sha256(b"42\x00ja\x00model.norm.weight").digest()
    assert mask_key(42, "ja", "model.norm.weight") == (
        int.from_bytes(digest[:4], "little"),
        int.from_bytes(digest[4:8], "little"),
    )


def test_documented_vector_holds() -> None:
    """Every row of the test vector in docs/merging.md."""
    text = (Path(__file__).parents[3] / "docs" / "merging.md").read_text(encoding="utf-8")
    key = mask_key(42, "ja", "model.layers.0.mlp.down_proj.weight")
    assert f"k0 = {key[0]:#010x}, k1 = {key[1]:#010x}" in text
    assert f"below {density_threshold(0.6)}" in text
    rows = re.findall(r"^\| (\d+) \| (0x[0-9a-f]{8}) \| (yes|no) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for index, value, kept in rows:
        assert int(hash_elements(key, torch.tensor(int(index)))) == int(value, 16)
        mask = keep_mask(key, density_threshold(0.6), int(index), torch.Size([1]))
        assert bool(mask) is (kept == "yes")


@settings(max_examples=50, deadline=None)
@given(KEYS, st.integers(0, 2**40), st.integers(1, 200))
def test_torch_hash_equals_numpy_hash(key: tuple[int, int], start: int, count: int) -> None:
    index = np.arange(start, start + count, dtype=np.uint64)
    expected = numpy_hash(key, index).astype(np.int64)
    assert np.array_equal(hash_elements(key, torch.from_numpy(index.astype(np.int64))), expected)


@settings(max_examples=30, deadline=None)
@given(KEYS, st.floats(0.001, 0.999), st.integers(1, 3000), st.booleans())
def test_fused_kernel_keeps_what_numpy_keeps(
    key: tuple[int, int], density: float, count: int, half: bool
) -> None:
    dtype = torch.bfloat16 if half else torch.float32
    inputs = [torch.zeros(count, dtype=dtype), torch.ones(count, dtype=dtype)]
    keep = KeepRandom(key, density_threshold(density))
    out = torch.empty(count)
    combine_into(
        DeltaSum((Term(1, 1.0, keep),)), inputs, torch.float32, out, lambda n, piece: piece(0, n)
    )
    expected = numpy_hash(key, np.arange(count, dtype=np.uint64)) >> 8 < round(density * 2**24)
    assert np.array_equal(out.numpy() == 1, expected)
    assert set(out.tolist()) <= {0.0, 1.0}


def test_masks_are_nested_in_density() -> None:
    key = mask_key(0, "a", "t")
    kept = [keep_mask(key, density_threshold(d), 0, torch.Size([COUNT])) for d in (0.2, 0.5, 0.9)]
    assert bool((kept[0] <= kept[1]).all())
    assert bool((kept[1] <= kept[2]).all())


def test_mask_of_a_part_is_the_part_of_the_mask() -> None:
    key, limit = mask_key(0, "a", "t"), density_threshold(0.5)
    whole = keep_mask(key, limit, 0, torch.Size([1000]))
    assert torch.equal(keep_mask(key, limit, 137, torch.Size([500])), whole[137:637])


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_kept_fraction_lies_within_five_sigma(density: float, seed: int) -> None:
    count = 1 << 20
    kept = int(
        keep_mask(
            mask_key(seed, "ja", "t"), density_threshold(density), 0, torch.Size([count])
        ).sum()
    )
    assert abs(kept - density * count) < 5 * math.sqrt(count * density * (1 - density))


@pytest.mark.parametrize("shift", [24, 16, 8])
def test_bytes_of_the_hash_are_uniform(shift: int) -> None:
    counts = np.bincount((hashes(7, "a", "t", 1 << 20) >> shift) & 255, minlength=256)
    expected = (1 << 20) / 256
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


def test_every_bit_is_fair() -> None:
    values = hashes(3, "a", "t", 1 << 20)
    for bit in range(32):
        ones = int(((values >> bit) & 1).sum())
        assert abs(ones - (1 << 19)) < 5 * math.sqrt((1 << 20) / 4)


OTHERS = {
    "seed": (1, "a", "t"),
    "far seed": (2**40, "a", "t"),
    "source": (0, "b", "t"),
    "tensor": (0, "a", "u"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_streams_of_other_keys_are_uncorrelated(other: tuple[int, str, str]) -> None:
    first, second = hashes(0, "a", "t"), hashes(*other)
    _check_uncorrelated(first, second)


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 64, 576, 4096])
def test_neighbours_are_uncorrelated(lag: int) -> None:
    values = hashes(0, "a", "t")
    _check_uncorrelated(values[:-lag], values[lag:])


def test_correlations_of_many_keys_spread_as_chance_does() -> None:
    """Keys as they occur: 120 sources of one tensor, neighbours compared; z-scores are N(0, 1)."""
    streams = [hashes(0, f"source{i}", "t", 1 << 14) < 0.3 * 2**32 for i in range(120)]
    scores = [np.corrcoef(a, b)[0, 1] * math.sqrt(1 << 14) for a, b in itertools.pairwise(streams)]
    assert abs(np.mean(scores)) < 5 / math.sqrt(119)
    assert abs(np.std(scores) - 1) < 5 / math.sqrt(2 * 119)


@pytest.mark.parametrize("bit", range(32))
@pytest.mark.parametrize("word", [0, 1])
def test_one_bit_of_the_key_flips_half_of_the_hash(word: int, bit: int) -> None:
    key = [0x12345678, 0x9ABCDEF0]
    first = hash_elements((key[0], key[1]), torch.arange(COUNT)).numpy()
    key[word] ^= 1 << bit
    second = hash_elements((key[0], key[1]), torch.arange(COUNT)).numpy()
    assert abs(np.bitwise_count(first ^ second).mean() - 16) < 0.5


def test_no_stream_is_a_shift_of_another() -> None:
    """Long runs of one stream occur in no other: they would if only the offset differed."""
    first, second = hashes(0, "a", "t"), hashes(0, "b", "t")
    runs = {tuple(first[i : i + 2]) for i in range(COUNT - 1)}
    assert not any(tuple(second[i : i + 2]) in runs for i in range(COUNT - 1))


def _check_uncorrelated(first: np.ndarray, second: np.ndarray) -> None:
    limit = 5 / math.sqrt(len(first))
    assert abs(np.corrcoef(first, second)[0, 1]) < limit
    for density in (0.1, 0.5):
        a, b = (values < density * 2**32 for values in (first, second))
        assert abs(np.corrcoef(a, b)[0, 1]) < limit
