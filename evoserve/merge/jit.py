"""Fused CPU kernels: blocks that stay in the first-level cache, inputs to output in one pass.

They equal `evoserve.merge.torch_path` bit for bit: float32 operations in the same order, none
contracted, sums in the same lanes. Inputs are addresses, so that no number of inputs, dtype or
shape needs a compilation of its own; machine code is cached on disk where a folder is writable.
"""

from typing import Any

import numpy as np
from numba import carray

from evoserve.jit import compiled, float32_at, part, uint16_at, uint32_at
from evoserve.merge.masks import HIGH_WORD_MULTIPLIER, MULTIPLIERS, SHIFTS
from evoserve.merge.torch_path import CHUNK, LANES

INPUT = np.dtype([("address", np.int64), ("is_bfloat16", np.int64)])
TERM = np.dtype(
    [
        ("input", np.int64),
        ("kind", np.int64),
        ("bottom_index", np.int64),
        ("top_index", np.int64),
        ("coefficient", np.float32),
        ("weight", np.float32),
        ("key0", np.uint32),
        ("key1", np.uint32),
        ("threshold", np.uint32),
        ("bottom_bits", np.uint32),
        ("top_bits", np.uint32),
        ("padding", np.uint32),
    ]
)
JOB = np.dtype(
    [
        ("out", np.int64),
        ("elect", np.int64),
        ("normalize", np.int64),
        ("rounds_to_bfloat16", np.int64),
        ("stores_bfloat16", np.int64),
        ("scale", np.float64),
        ("largest", np.int64),
    ]
)
KEEP_ALL, KEEP_RANDOM, KEEP_MAGNITUDE = 0, 1, 2
BLOCK = 1 << 10
NUM_BINS = 1 << 16
_SHIFT0, _SHIFT1, _SHIFT2, _SHIFT3 = (np.uint32(shift) for shift in SHIFTS)
_MULTIPLIER0, _MULTIPLIER1, _MULTIPLIER2 = (np.uint32(m) for m in MULTIPLIERS)
_HIGH_WORD = np.uint32(HIGH_WORD_MULTIPLIER)
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_INFINITY = np.uint32(0x7F800000)
_NAN = np.uint32(0x7FC00000)

Array = np.ndarray[Any, Any]


@part
def _load(source: Any, start: int, count: int, values: Array) -> None:
    """Decode `count` elements from `start` on into float32."""
    if source.is_bfloat16:
        halves = carray(uint16_at(source.address + 2 * start), (count,))
        bits = values.view(np.uint32)
        for i in range(count):
            bits[i] = np.uint32(halves[i]) << np.uint32(16)
    else:
        floats = carray(float32_at(source.address + 4 * start), (count,))
        for i in range(count):
            values[i] = floats[i]


@part
def _load_delta(source: Any, base: Array, start: int, count: int, delta: Array) -> None:
    _load(source, start, count, delta)
    for i in range(count):
        delta[i] = delta[i] - base[i]


@part
def _add_term(term: Any, base: Array, start: int, count: int, delta: Array, total: Array) -> None:
    """From the input's values in `delta` to coefficient * kept delta, which `total` gains.

    A block never crosses a multiple of 2**32, so all its indices share their high word.
    """
    coefficient = np.float32(term.coefficient)
    if term.kind == KEEP_RANDOM:
        low, key0 = np.uint32(start), np.uint32(term.key0)
        key1 = np.uint32(term.key1 ^ np.uint32(np.uint32(start >> 32) * _HIGH_WORD))
        limit = np.uint32(term.threshold)
        for i in range(count):
            x = np.uint32(np.uint32(low + np.uint32(i)) ^ key0)
            x = np.uint32(np.uint32(x ^ (x >> _SHIFT0)) * _MULTIPLIER0)
            x = np.uint32(x ^ key1)
            x = np.uint32(np.uint32(x ^ (x >> _SHIFT1)) * _MULTIPLIER1)
            x = np.uint32(np.uint32(x ^ (x >> _SHIFT2)) * _MULTIPLIER2)
            x = np.uint32(x ^ (x >> _SHIFT3))
            kept = np.uint32(x >> np.uint32(8)) < limit
            delta[i] = (delta[i] - base[i] if kept else np.float32(0)) * coefficient
            total[i] = total[i] + delta[i]
    elif term.kind == KEEP_MAGNITUDE:
        for i in range(count):
            delta[i] = delta[i] - base[i]
        bits = delta.view(np.uint32)
        bottom, top = np.uint32(term.bottom_bits), np.uint32(term.top_bits)
        bottom_at = np.int32(min(max(term.bottom_index - start, -1), count))
        top_at = np.int32(min(max(term.top_index - start, -1), count))
        for i in range(count):
            size = np.uint32(bits[i] & _MAGNITUDE)
            inside = (size > bottom) | ((size == bottom) & (np.int32(i) <= bottom_at))
            beyond = (size > top) | ((size == top) & (np.int32(i) <= top_at))
            delta[i] = (delta[i] if inside and not beyond else np.float32(0)) * coefficient
            total[i] = total[i] + delta[i]
    else:
        for i in range(count):
            delta[i] = (delta[i] - base[i]) * coefficient
            total[i] = total[i] + delta[i]


@part
def _store(job: Any, start: int, count: int, values: Array) -> None:
    """Round to nearest even where the job says so, write, and keep the largest magnitude bits."""
    bits = values.view(np.uint32)
    if job.stores_bfloat16 or job.rounds_to_bfloat16:
        for i in range(count):
            bits[i] = _bfloat16_bits(bits[i])
    largest = np.uint32(0)
    if job.stores_bfloat16:
        halves = carray(uint16_at(job.out + 2 * start), (count,))
        for i in range(count):
            size = np.uint32(bits[i] & _MAGNITUDE)
            largest = size if size > largest else largest
            halves[i] = np.uint16(bits[i] >> np.uint32(16))
    else:
        words = carray(uint32_at(job.out + 4 * start), (count,))
        for i in range(count):
            size = np.uint32(bits[i] & _MAGNITUDE)
            largest = size if size > largest else largest
            words[i] = bits[i]
    job.largest = max(job.largest, np.int64(largest))


@part
def _bfloat16_bits(x: Any) -> Any:
    """float32 bits of the bfloat16 nearest to the float32 of bits `x`, ties to even."""
    odd = np.uint32(np.uint32(x >> np.uint32(16)) & np.uint32(1))
    rounded = np.uint32(np.uint32(x + np.uint32(0x7FFF)) + odd) & np.uint32(0xFFFF0000)
    return np.uint32(rounded) if np.uint32(x & _MAGNITUDE) <= _INFINITY else _NAN


@compiled
def combine_linear(inputs: Array, terms: Array, job: Array, start: int, stop: int) -> None:
    """Sum of coefficient * input over `terms` (none: zero), for elements [start, stop)."""
    values, result = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for at in range(start, stop, BLOCK):
        count = min(BLOCK, stop - at)
        if len(terms) == 0:
            result[:] = 0
        for k in range(len(terms)):
            coefficient = np.float32(terms[k].coefficient)
            _load(inputs[terms[k].input], at, count, values)
            if k == 0:
                for i in range(count):
                    result[i] = values[i] * coefficient
            else:
                for i in range(count):
                    result[i] = result[i] + values[i] * coefficient
        _store(job[0], at, count, result)


@compiled
def combine_deltas(inputs: Array, terms: Array, job: Array, start: int, stop: int) -> None:
    """base + scale * sum of what each term keeps of its delta, for elements [start, stop)."""
    base, total = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    mixed, deltas = np.empty(BLOCK, np.float32), np.empty((len(terms), BLOCK), np.float32)
    scale = np.float32(job[0].scale)
    for at in range(start, stop, BLOCK):
        count = min(BLOCK, stop - at)
        _load(inputs[0], at, count, base)
        total[:] = 0
        for k in range(len(terms)):
            _load(inputs[terms[k].input], at, count, deltas[k])
            _add_term(terms[k], base, at, count, deltas[k], total)
        if job[0].elect:
            _elect(deltas, count, total, mixed)
        if job[0].normalize:
            _divide_by_agreeing(terms, deltas, count, total, mixed)
        result = mixed if job[0].elect else total
        for i in range(count):
            result[i] = base[i] + result[i] * scale
        _store(job[0], at, count, result)


@part
def _elect(deltas: Array, count: int, total: Array, mixed: Array) -> None:
    """Sum of the deltas that agree in sign with the total; a total of zero counts as +.

    NaN makes the total NaN and is negative here, so that it is not dropped unseen.
    """
    mixed[:] = 0
    for k in range(len(deltas)):
        delta = deltas[k]
        for i in range(count):
            agrees = (delta[i] > 0) if total[i] >= 0 else not (delta[i] >= 0)
            mixed[i] = mixed[i] + (delta[i] if agrees else np.float32(0))


@part
def _divide_by_agreeing(
    terms: Array, deltas: Array, count: int, total: Array, mixed: Array
) -> None:
    """Divide by the sum of the weights that agree with the total's sign; zero counts as 1."""
    divisor = np.zeros(BLOCK, np.float32)
    for k in range(len(terms)):
        delta, weight = deltas[k], np.float32(terms[k].weight)
        for i in range(count):
            agrees = (delta[i] > 0) if total[i] >= 0 else not (delta[i] >= 0)
            divisor[i] = divisor[i] + (weight if agrees else np.float32(0))
    for i in range(count):
        mixed[i] = mixed[i] / (divisor[i] if divisor[i] != 0 else np.float32(1))


@compiled
def gram_chunks(inputs: Array, rebased: bool, start: int, stop: int, partials: Array) -> None:
    """Inner products of each chunk in [start, stop) into partials (num_chunks, K, K)."""
    num, first = len(inputs), 1 if rebased else 0
    values = np.empty((num, BLOCK), np.float32)
    lanes, sums = np.empty(LANES, np.float64), np.empty((num, num, LANES), np.float64)
    for chunk in range(start // CHUNK, (stop + CHUNK - 1) // CHUNK):
        end = min(stop, (chunk + 1) * CHUNK)
        sums[:] = 0
        for at in range(chunk * CHUNK, end, BLOCK):
            _load_all(inputs, rebased, at, min(BLOCK, end - at), values)
            for a in range(first, num):
                for b in range(a, num):
                    _add_products(values[a], values[b], min(BLOCK, end - at), lanes, sums[a, b])
        for a in range(first, num):
            for b in range(a, num):
                partials[chunk, a, b] = _sum_lanes(sums[a, b])
                partials[chunk, b, a] = partials[chunk, a, b]


@part
def _load_all(inputs: Array, rebased: bool, start: int, count: int, values: Array) -> None:
    _load(inputs[0], start, count, values[0])
    for k in range(1, len(inputs)):
        if rebased:
            _load_delta(inputs[k], values[0], start, count, values[k])
        else:
            _load(inputs[k], start, count, values[k])


@part
def _sum_lanes(lanes: Array) -> float:
    total = 0.0
    for lane in range(LANES):
        total += lanes[lane]
    return total


@part
def _add_products(a: Array, b: Array, count: int, lanes: Array, sums: Array) -> None:
    for lane in range(LANES):
        lanes[lane] = sums[lane]
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(a[i + lane]) * np.float64(b[i + lane])
    for i in range(whole, count):
        lanes[i - whole] += np.float64(a[i]) * np.float64(b[i])
    for lane in range(LANES):
        sums[lane] = lanes[lane]


@compiled
def l1_chunks(inputs: Array, term: Array, start: int, stop: int, partials: Array) -> None:
    """L1 norm of the term's delta before and after dropping, per chunk (num_chunks, 2).

    The term's coefficient is 1.
    """
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    total = np.empty(BLOCK, np.float32)
    lanes, sums = np.empty(LANES, np.float64), np.empty((2, LANES), np.float64)
    for chunk in range(start // CHUNK, (stop + CHUNK - 1) // CHUNK):
        end = min(stop, (chunk + 1) * CHUNK)
        sums[:] = 0
        for at in range(chunk * CHUNK, end, BLOCK):
            count = min(BLOCK, end - at)
            _load(inputs[0], at, count, base)
            _load_delta(inputs[term[0].input], base, at, count, delta)
            _add_magnitudes(delta, count, lanes, sums[0])
            _load(inputs[term[0].input], at, count, delta)
            _add_term(term[0], base, at, count, delta, total)
            _add_magnitudes(delta, count, lanes, sums[1])
        for j in range(2):
            partials[chunk, j] = _sum_lanes(sums[j])


@part
def _add_magnitudes(a: Array, count: int, lanes: Array, sums: Array) -> None:
    for lane in range(LANES):
        lanes[lane] = sums[lane]
    whole = count - count % LANES
    for i in range(0, whole, LANES):
        for lane in range(LANES):
            lanes[lane] += np.float64(abs(a[i + lane]))
    for i in range(whole, count):
        lanes[i - whole] += np.float64(abs(a[i]))
    for lane in range(LANES):
        sums[lane] = lanes[lane]


@compiled
def count_magnitudes(
    inputs: Array, index: int, prefix: int, start: int, stop: int, counts: Array
) -> None:
    """Histogram of the upper 16 magnitude bits; with a prefix >= 0, of the lower 16 under it."""
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bits = delta.view(np.uint32)
    for at in range(start, stop, BLOCK):
        count = min(BLOCK, stop - at)
        _load(inputs[0], at, count, base)
        _load_delta(inputs[index], base, at, count, delta)
        for i in range(count):
            size = np.uint32(bits[i] & _MAGNITUDE)
            upper = np.int64(size >> np.uint32(16))
            if prefix < 0:
                counts[upper] += 1
            elif upper == prefix:
                counts[np.int64(size & np.uint32(0xFFFF))] += 1


@compiled
def count_equal_chunks(
    inputs: Array, index: int, target: int, start: int, stop: int, counts: Array
) -> None:
    """How many magnitudes of each chunk in [start, stop) have the bits `target`."""
    base, delta = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    bits, wanted = delta.view(np.uint32), np.uint32(target)
    for at in range(start, stop, BLOCK):
        count = min(BLOCK, stop - at)
        _load(inputs[0], at, count, base)
        _load_delta(inputs[index], base, at, count, delta)
        equal = 0
        for i in range(count):
            equal += 1 if np.uint32(bits[i] & _MAGNITUDE) == wanted else 0
        counts[at // CHUNK] += equal
