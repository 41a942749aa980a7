"""Vector micro-kernels as LLVM: a few rows times one panel of 16 columns, sums in registers.

A panel holds, for each k in order, what 16 neighbouring output columns multiply with, so that one
load serves all rows. Every sum runs over k in order, whatever the number of rows: a row's result
has the same bits alone and in any batch.

Vectors are eight lanes wide, in portable LLVM; on AVX2 the integer product becomes vpmaddwd, 16
products of 16 bits in one instruction, which cannot saturate. Arguments are int64 that lie side by
side at an address, as `evoserve.jit.call` leaves them.
"""

from typing import Any

from llvmlite import ir
from numba.core import types

from evoserve.jit import intrinsic
from evoserve.model.cpu.lanes import (
    F16,
    F32,
    FLOATS,
    I8,
    I16,
    I32,
    I64,
    INTS,
    LANES,
    SHORTS,
    Value,
    arguments_at,
    load,
    loop,
    multiply_add,
    prefetch,
    row_starts,
    size,
    splat,
    splat_float,
    switch,
)

PANEL = 16
MAX_ROWS = 6
K_MULTIPLE = 8
FLOAT32, BFLOAT16, FLOAT16, INT8 = 0, 1, 2, 3
ITEM_BYTES = (4, 2, 2, 1)

_UNROLL = 4
_HALVES = range(PANEL // LANES)
_PRODUCTS = ir.VectorType(I32, 2 * LANES)


@intrinsic
def multiply_dense(_context: Any, _arguments: Any) -> Any:
    """(kind, num_rows, rows, row_bytes, panel, k, out, out_bytes, bias, ahead), all but sizes
    addresses: out[r, :16] = bias[:16] + sum over k of rows[r, k] * panel[k, :16].

    kind: FLOAT32, BFLOAT16 or FLOAT16, of the panel, everything else is float32; num_rows:
    1..MAX_ROWS; k: a multiple of K_MULTIPLE; row_bytes, out_bytes: from one row to the next;
    ahead: how many bytes beyond the panel lies what comes next, and is fetched meanwhile.
    """
    num_cases = 3 * (MAX_ROWS + 1)

    def emit(builder: Any, arguments: list[Value], case: int) -> None:
        rows, row_bytes, panel, k, out, out_bytes, bias, ahead = arguments
        kind, count = divmod(case, MAX_ROWS + 1)
        item = ITEM_BYTES[kind]
        starts = row_starts(builder, rows, row_bytes, count)
        first = [load(builder, bias, 32 * half, FLOATS) for half in _HALVES] * count

        def step(at: Value, offset: Value, sums: list[Value]) -> list[Value]:
            prefetch(builder, builder.add(at, ahead), _UNROLL * PANEL * item)
            for unit in range(_UNROLL):
                columns = [_columns(builder, at, unit, half, kind) for half in _HALVES]
                factors = [splat_float(builder, start, offset, 4 * unit) for start in starts]
                sums = multiply_add(builder, factors, columns, sums)
            return sums

        strides = (_UNROLL * PANEL * item, _UNROLL * 4)
        stop = builder.add(panel, builder.mul(k, size(PANEL * item)))
        _store_rows(builder, out, out_bytes, loop(builder, panel, stop, strides, first, step))

    cases = [case for case in range(num_cases) if case % (MAX_ROWS + 1)]

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind, num_rows, *rest = arguments_at(builder, values[0], 10)
        case = builder.add(builder.mul(kind, size(MAX_ROWS + 1)), num_rows)
        switch(builder, case, cases, lambda which: emit(builder, rest, which))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def multiply_int8(_context: Any, _arguments: Any) -> Any:
    """(num_rows, rows, row_bytes, panel, k, out, out_bytes, bias, ahead, column_scales,
    row_scales): out[r, :16] =
    (sum over k of rows[r, k] * panel[k, :16]) * row_scales[r] * column_scales + bias.

    rows: int16, so small that int32 holds every sum (`evoserve.model.quantize.token_levels`);
    panel: int8, pairs of neighbouring k side by side, (k / 2, 16, 2); the rest is as above.
    """

    def emit(builder: Any, arguments: list[Value], count: int) -> None:
        rows, row_bytes, panel, k, out, out_bytes, bias, ahead, *scales = arguments
        starts = row_starts(builder, rows, row_bytes, count)
        first = [ir.Constant(INTS, [0] * LANES)] * (2 * count)

        def step(at: Value, offset: Value, sums: list[Value]) -> list[Value]:
            prefetch(builder, builder.add(at, ahead), 2 * PANEL)
            pairs = [_pairs(builder, at, PANEL * half) for half in _HALVES]
            found = []
            for r, start in enumerate(starts):
                both = load(builder, builder.add(start, offset), 0, I32, 2)
                factors = builder.bitcast(splat(builder, both, INTS), SHORTS)
                for half in _HALVES:
                    product = _pairwise(builder, pairs[half], factors)
                    found.append(builder.add(sums[2 * r + half], product))
            return found

        strides = (2 * PANEL, 4)  # unrolled, LLVM would regroup the sums until they spill
        stop = builder.add(panel, builder.mul(k, size(PANEL)))
        sums = loop(builder, panel, stop, strides, first, step)
        scaled = _scale(builder, sums, scales, bias)
        _store_rows(builder, out, out_bytes, scaled)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        num_rows, *rest = arguments_at(builder, values[0], 11)
        cases = range(1, MAX_ROWS + 1)
        switch(builder, num_rows, cases, lambda count: emit(builder, rest, count))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def accumulate(_context: Any, _arguments: Any) -> Any:
    """(num_columns, num_rows, rows, row_bytes, k, blocks, end, block_size, block_bytes, columns,
    column_bytes, out, out_bytes), all float32:
    out[r, :num_columns] = sum over k of rows[r, k] * columns[k, :num_columns].

    num_columns: 16, or 32 for up to MAX_ROWS / 2 rows. Columns lie in blocks of block_size, whose
    int64 numbers lie from blocks to end and hold k columns in all, at least 1; columns: column 0
    of block 0; block_bytes, column_bytes: from one to the next.
    """

    def emit(builder: Any, arguments: list[Value], case: int) -> None:
        rows, row_bytes, k, blocks, end, block_size, block_bytes, *places = arguments
        columns, column_bytes, out, out_bytes = places
        is_wide, count = divmod(case, MAX_ROWS + 1)
        parts = range(2 * len(_HALVES)) if is_wide else _HALVES
        starts = row_starts(builder, rows, row_bytes, count)
        first = [ir.Constant(FLOATS, [0.0] * LANES)] * (count * len(parts))

        def block_at(number: Value) -> Value:
            return builder.add(columns, builder.mul(load(builder, number, 0, I64, 8), block_bytes))

        def add_block(at: Value, offset: Value, sums: list[Value]) -> list[Value]:
            here, following = block_at(at), builder.add(at, size(8))
            is_last = builder.icmp_unsigned(">=", following, end)
            ahead = builder.sub(block_at(builder.select(is_last, at, following)), here)
            left = builder.sub(k, builder.lshr(offset, size(2)))
            num_bytes = builder.mul(builder.select(is_last, left, block_size), column_bytes)
            mine = [builder.add(start, offset) for start in starts]

            def add_column(column: Value, offset: Value, sums: list[Value]) -> list[Value]:
                prefetch(builder, builder.add(column, ahead), 32 * len(parts))
                loaded = [load(builder, column, 32 * part, FLOATS) for part in parts]
                factors = [splat_float(builder, start, offset, 0) for start in mine]
                return multiply_add(builder, factors, loaded, sums)

            stop = builder.add(here, num_bytes)
            return loop(builder, here, stop, (column_bytes, 4), sums, add_column)

        strides = (8, builder.mul(size(4), block_size))
        sums = loop(builder, blocks, end, strides, first, add_block)
        _store_rows(builder, out, out_bytes, sums, len(parts))

    cases = [*range(1, MAX_ROWS + 1), *range(MAX_ROWS + 2, MAX_ROWS + 2 + MAX_ROWS // 2)]

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        num_columns, num_rows, *rest = arguments_at(builder, values[0], 13)
        is_wide = builder.udiv(num_columns, size(2 * PANEL))
        case = builder.add(builder.mul(is_wide, size(MAX_ROWS + 1)), num_rows)
        switch(builder, case, cases, lambda which: emit(builder, rest, which))
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _columns(builder: Any, panel: Value, unit: int, half: int, kind: int) -> Value:
    """Eight columns of a dense panel, as float32."""
    at = (PANEL * unit + LANES * half) * ITEM_BYTES[kind]
    if kind == FLOAT32:
        return load(builder, panel, at, FLOATS)
    if kind == FLOAT16:
        return builder.fpext(load(builder, panel, at, ir.VectorType(F16, LANES), 2), FLOATS)
    high = builder.zext(load(builder, panel, at, ir.VectorType(I16, LANES), 2), INTS)
    return builder.bitcast(builder.shl(high, ir.Constant(INTS, [16] * LANES)), FLOATS)


def _pairs(builder: Any, panel: Value, at: int) -> Value:
    """Eight columns of two k each, from int8 to int16."""
    return builder.sext(load(builder, panel, at, ir.VectorType(I8, 2 * LANES), 1), SHORTS)


def _pairwise(builder: Any, left: Value, right: Value) -> Value:
    """left[2i] * right[2i] + left[2i + 1] * right[2i + 1]: LLVM knows it as vpmaddwd."""
    products = builder.mul(builder.sext(left, _PRODUCTS), builder.sext(right, _PRODUCTS))
    even, odd = (
        builder.shuffle_vector(
            products,
            ir.Constant(_PRODUCTS, ir.Undefined),
            ir.Constant(INTS, list(range(first, 2 * LANES, 2))),
        )
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _scale(builder: Any, sums: list[Value], scales: list[Value], bias: Value) -> list[Value]:
    column_scales, row_scales = scales
    scaled = []
    for index, total in enumerate(sums):
        row, half = divmod(index, len(_HALVES))
        factor = splat(builder, load(builder, row_scales, 4 * row, F32), FLOATS)
        wide = builder.fmul(builder.sitofp(total, FLOATS), factor)
        wide = builder.fmul(wide, load(builder, column_scales, 32 * half, FLOATS))
        scaled.append(builder.fadd(wide, load(builder, bias, 32 * half, FLOATS)))
    return scaled


def _store_rows(
    builder: Any, out: Value, out_bytes: Value, values: list[Value], per_row: int = len(_HALVES)
) -> None:
    for row, start in enumerate(row_starts(builder, out, out_bytes, len(values) // per_row)):
        for part in range(per_row):
            address = builder.add(start, size(32 * part))
            pointer = builder.inttoptr(address, ir.PointerType(FLOATS))
            builder.store(values[per_row * row + part], pointer).align = 4
