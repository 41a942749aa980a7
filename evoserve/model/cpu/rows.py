"""What happens to rows between the products: norms, rotation, activation, quantisation.

All is float32. Formulas are those of `evoserve.model.layer`; sums run in vector lanes, so the last
bits differ.
A row's result never depends on the rows around it.
"""

from typing import Any

import numpy as np
from numba import carray

from evoserve.jit import int8_at, part, reordered_part, uint16_at
from evoserve.model.cpu.records import padded_in, wide
from evoserve.model.cpu.scalar import (
    exponential,
    float_of_bits,
    float_of_half,
    floats,
    largest_magnitude,
    shorts,
)
from evoserve.model.cpu.simd import BFLOAT16, FLOAT32, INT8, PANEL

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
_INFINITY, _NAN = np.float32(np.inf), np.float32(np.nan)


@part
def embed(table: Any, token: int, scale: float, hidden: int, out: int) -> None:
    """Row `token` of a packed table times `scale` into float32 (hidden,) at `out`."""
    row = floats(out, hidden)
    panel, lane = divmod(token, PANEL)
    first = panel * PANEL * table.num_in + lane
    if table.kind == FLOAT32:
        values = floats(table.weight + 4 * first, PANEL * hidden)
        for i in range(hidden):
            row[i] = values[i * PANEL]
    elif table.kind == INT8:
        _embed_int8(table, token, row)
    else:
        halves = carray(uint16_at(table.weight + 2 * first), (PANEL * hidden,))
        for i in range(hidden):
            half = halves[i * PANEL]
            if table.kind == BFLOAT16:
                row[i] = float_of_bits(np.int32(np.uint32(half) << np.uint32(16)))
            else:
                row[i] = float_of_half(half)
    factor = np.float32(scale)
    for i in range(hidden):
        row[i] *= factor


@part
def _embed_int8(table: Any, token: int, row: Any) -> None:
    """Pairs of columns side by side."""
    panel, lane = divmod(token, PANEL)
    start = table.weight + panel * PANEL * table.num_in + 2 * lane
    values = carray(int8_at(start), (PANEL * table.num_in,))
    scale = floats(table.scales, token + 1)[token]
    for i in range(row.size):
        row[i] = np.float32(values[(i >> 1) * 2 * PANEL + (i & 1)]) * scale


@reordered_part
def add_row(residual: int, branch: int, count: int, alpha: float, beta: float) -> None:
    """residual = (residual + alpha * branch) * beta."""
    into, added = floats(residual, count), floats(branch, count)
    by, scale = np.float32(alpha), np.float32(beta)
    for i in range(count):
        into[i] = (into[i] + by * added[i]) * scale


@reordered_part
def rms_norm_row(row: int, weight: int, count: int, eps: float, out: int) -> None:
    """RMSNorm of `count` float32; `out` may be `row`."""
    values, factors, normed = floats(row, count), floats(weight, count), floats(out, count)
    total = _ZERO
    for i in range(count):
        total += values[i] * values[i]
    inverse = _ONE / np.sqrt(total / np.float32(count) + np.float32(eps))
    for i in range(count):
        normed[i] = (values[i] * inverse) * factors[i]


@part
def quantize_row(row: int, count: int, largest: int, out: int) -> Any:
    """int16 at `out` that hold round-half-even(row / scale) in +-`largest`; returns the scale.

    A row of zeros has scale 1. One with NaN or infinity becomes zeros of scale NaN.
    """
    values, quantized = floats(row, count), shorts(out, count)
    most = largest_magnitude(row, count)
    if not most < _INFINITY:
        for i in range(count):
            quantized[i] = 0
        return _NAN
    scale = most / np.float32(largest) if most > _ZERO else _ONE
    for i in range(count):
        quantized[i] = np.int16(np.rint(values[i] / scale))
    return scale


@reordered_part
def swiglu_row(gate_up: int, count: int, out: int) -> None:
    """silu(gate) * up of a row that holds `count` gates, then as many ups."""
    both, activated = floats(gate_up, 2 * count), floats(out, count)
    for i in range(count):
        gate = both[i]
        activated[i] = gate / (_ONE + exponential(-gate)) * both[count + i]


@reordered_part
def rotate_head(head: int, head_dim: int, cosines: int, sines: int) -> None:
    """Rotary table in place; the first half of `sines` is negated already."""
    half = head_dim // 2
    low, high = floats(head, half), floats(head + 4 * half, half)
    cos, sin = floats(cosines, head_dim), floats(sines, head_dim)
    for i in range(half):
        first, second = low[i], high[i]
        low[i] = first * cos[i] + second * sin[i]
        high[i] = second * cos[half + i] + first * sin[half + i]


@part
def copy_row(source: int, count: int, out: int) -> None:
    """`count` float32; the two may overlap only if `out` comes first."""
    values, copied = floats(source, count), floats(out, count)
    for i in range(count):
        copied[i] = values[i]


@part
def store_key_value(
    key: int, value: int, head_dim: int, head_cache: int, block_size: int, offset: int
) -> None:
    """Write one token's key and value at `offset` of a block (see `records.kv_head_bytes`)."""
    panel, lane = divmod(offset, PANEL)
    keys = head_cache + 4 * (panel * PANEL * padded_in(head_dim) + lane)
    column, source = floats(keys, PANEL * padded_in(head_dim)), floats(key, head_dim)
    for i in range(head_dim):
        column[i * PANEL] = source[i]
    for i in range(head_dim, padded_in(head_dim)):
        column[i * PANEL] = _ZERO
    values = head_cache + 4 * wide(block_size) * padded_in(head_dim)
    copy_row(value, head_dim, values + 4 * offset * wide(head_dim))
