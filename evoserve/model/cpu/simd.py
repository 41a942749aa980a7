"""Vector micro-kernels as LLVM: a few rows times one panel of 16 columns, sums in registers.

A panel holds, for each k in order, what 16 neighbouring output columns multiply with, so that one
load serves all rows. Every sum runs over k in order, whatever the number of rows: a row's result
has the same bits alone and in any batch.

Vectors are eight lanes wide, in portable LLVM; on AVX2 the integer product becomes vpmaddwd, 16
products of 16 bits in one instruction, which cannot saturate. Arguments are int64 that lie side by
side at an address, as `evoserve.jit.call` leaves them.
"""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir
from numba.core import types

from evoserve.jit import intrinsic

PANEL = 16
MAX_ROWS = 6
K_MULTIPLE = 8
FLOAT32, BFLOAT16, FLOAT16, INT8 = 0, 1, 2, 3
ITEM_BYTES = (4, 2, 2, 1)

_UNROLL = 4
_LANES = 8
_HALVES = range(PANEL // _LANES)
_F32, _F16, _I8, _I16, _I32, _I64 = (
    ir.FloatType(),
    ir.HalfType(),
    *(ir.IntType(bits) for bits in (8, 16, 32, 64)),
)
_FLOATS, _INTS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)
_SHORTS, _PRODUCTS = ir.VectorType(_I16, 2 * _LANES), ir.VectorType(_I32, 2 * _LANES)
_FMA = "llvm.fma.v8f32"

Value = Any
Step = Callable[[Value, Value, list[Value]], list[Value]]


@intrinsic
def multiply_dense(_context: Any, _arguments: Any) -> Any:
    """(kind, num_rows, rows, row_bytes, panel, k, out, out_bytes, bias), all but sizes addresses:
    out[r, :16] = bias[:16] + sum over k of rows[r, k] * panel[k, :16].

    kind: FLOAT32, BFLOAT16 or FLOAT16, of the panel, everything else is float32; num_rows:
    1..MAX_ROWS; k: a multiple of K_MULTIPLE; row_bytes, out_bytes: from one row to the next.
    """
    num_cases = 3 * (MAX_ROWS + 1)

    def emit(builder: Any, arguments: list[Value], case: int) -> None:
        rows, row_bytes, panel, k, out, out_bytes, bias = arguments
        kind, count = divmod(case, MAX_ROWS + 1)
        item = ITEM_BYTES[kind]
        starts = _row_starts(builder, rows, row_bytes, count)
        first = [_load(builder, bias, 32 * half, _FLOATS) for half in _HALVES] * count

        def step(at: Value, offset: Value, sums: list[Value]) -> list[Value]:
            for unit in range(_UNROLL):
                columns = [_columns(builder, at, unit, half, kind) for half in _HALVES]
                factors = [_splat_float(builder, start, offset, 4 * unit) for start in starts]
                sums = _multiply_add(builder, factors, columns, sums)
            return sums

        strides = (_UNROLL * PANEL * item, _UNROLL * 4)
        stop = builder.add(panel, builder.mul(k, _size(PANEL * item)))
        _store_rows(builder, out, out_bytes, _loop(builder, panel, stop, strides, first, step))

    cases = [case for case in range(num_cases) if case % (MAX_ROWS + 1)]

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind, num_rows, *rest = _arguments_at(builder, values[0], 9)
        case = builder.add(builder.mul(kind, _size(MAX_ROWS + 1)), num_rows)
        _switch(builder, case, cases, lambda which: emit(builder, rest, which))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def multiply_int8(_context: Any, _arguments: Any) -> Any:
    """(num_rows, rows, row_bytes, panel, k, out, out_bytes, bias, column_scales, row_scales):
    out[r, :16] = (sum of rows[r, k] * panel[k, :16]) * row_scales[r] * column_scales + bias.

    rows: int16, so small that int32 holds every sum (`evoserve.model.quantize.token_levels`);
    panel: int8, pairs of neighbouring k side by side, (k / 2, 16, 2); the rest is float32.
    """

    def emit(builder: Any, arguments: list[Value], count: int) -> None:
        rows, row_bytes, panel, k, out, out_bytes, bias, column_scales, row_scales = arguments
        starts = _row_starts(builder, rows, row_bytes, count)
        first = [ir.Constant(_INTS, [0] * _LANES)] * (2 * count)

        def step(at: Value, offset: Value, sums: list[Value]) -> list[Value]:
            sums = list(sums)
            for unit in range(_UNROLL):
                pairs = [_pairs(builder, at, 32 * unit + PANEL * half) for half in _HALVES]
                for r, start in enumerate(starts):
                    both = _load(builder, builder.add(start, offset), 4 * unit, _I32, 2)
                    factors = builder.bitcast(_splat(builder, both, _INTS), _SHORTS)
                    for half in _HALVES:
                        product = _pairwise(builder, pairs[half], factors)
                        sums[2 * r + half] = builder.add(sums[2 * r + half], product)
            return sums

        strides = (_UNROLL * 2 * PANEL, _UNROLL * 4)
        stop = builder.add(panel, builder.mul(k, _size(PANEL)))
        sums = _loop(builder, panel, stop, strides, first, step)
        scaled = _scale(builder, sums, row_scales, column_scales, bias)
        _store_rows(builder, out, out_bytes, scaled)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        num_rows, *rest = _arguments_at(builder, values[0], 10)
        cases = range(1, MAX_ROWS + 1)
        _switch(builder, num_rows, cases, lambda count: emit(builder, rest, count))
        return context.get_dummy_value()

    return types.void(types.int64), generate


@intrinsic
def accumulate(_context: Any, _arguments: Any) -> Any:
    """(num_rows, rows, row_bytes, columns, column_bytes, k, out, out_bytes), all float32:
    out[r, :16] += sum over k of rows[r, k] * columns[k, :16].

    column_bytes: from one k to the next; k: at least 1.
    """

    def emit(builder: Any, arguments: list[Value], count: int) -> None:
        rows, row_bytes, columns, column_bytes, k, out, out_bytes = arguments
        starts = _row_starts(builder, rows, row_bytes, count)
        outs = _row_starts(builder, out, out_bytes, count)
        first = [_load(builder, at, 32 * half, _FLOATS) for at in outs for half in _HALVES]

        def step(at: Value, offset: Value, sums: list[Value]) -> list[Value]:
            loaded = [_load(builder, at, 32 * half, _FLOATS) for half in _HALVES]
            factors = [_splat_float(builder, start, offset, 0) for start in starts]
            return _multiply_add(builder, factors, loaded, sums)

        stop = builder.add(columns, builder.mul(k, column_bytes))
        sums = _loop(builder, columns, stop, (column_bytes, 4), first, step)
        _store_rows(builder, out, out_bytes, sums)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        num_rows, *rest = _arguments_at(builder, values[0], 8)
        cases = range(1, MAX_ROWS + 1)
        _switch(builder, num_rows, cases, lambda count: emit(builder, rest, count))
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _arguments_at(builder: Any, address: Value, count: int) -> list[Value]:
    return [_load(builder, address, 8 * index, _I64, 8) for index in range(count)]


def _switch(builder: Any, value: Value, cases: Iterable[int], emit: Callable[[int], None]) -> None:
    end = builder.append_basic_block("end")
    switch = builder.switch(value, end)
    for case in cases:
        block = builder.append_basic_block(f"case{case}")
        switch.add_case(_size(case), block)
        builder.position_at_end(block)
        emit(case)
        builder.branch(end)
    builder.position_at_end(end)


def _loop(
    builder: Any,
    start: Value,
    stop: Value,
    strides: tuple[Any, int],
    first: list[Value],
    step: Step,
) -> list[Value]:
    """Run `step(address, row offset, sums)` until `stop`, at least once; the last sums."""
    before, body = builder.block, builder.append_basic_block("k")
    after = builder.append_basic_block("sums")
    builder.branch(body)
    builder.position_at_end(body)
    at, offset = builder.phi(_I64), builder.phi(_I64)
    at.add_incoming(start, before)
    offset.add_incoming(_size(0), before)
    sums = [builder.phi(value.type) for value in first]
    for phi, value in zip(sums, first, strict=True):
        phi.add_incoming(value, before)
    results = step(at, offset, sums)
    for phi, value in zip(sums, results, strict=True):
        phi.add_incoming(value, body)
    stride = _size(strides[0]) if isinstance(strides[0], int) else strides[0]
    following = builder.add(at, stride)
    at.add_incoming(following, body)
    offset.add_incoming(builder.add(offset, _size(strides[1])), body)
    builder.cbranch(builder.icmp_unsigned("<", following, stop), body, after)
    builder.position_at_end(after)
    return results


def _multiply_add(
    builder: Any, factors: list[Value], columns: list[Value], sums: list[Value]
) -> list[Value]:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    fma = builder.module.globals.get(_FMA) or ir.Function(builder.module, kind, _FMA)
    pairs = ((factor, column) for factor in factors for column in columns)
    return [
        builder.call(fma, [factor, column, total])
        for (factor, column), total in zip(pairs, sums, strict=True)
    ]


def _columns(builder: Any, panel: Value, unit: int, half: int, kind: int) -> Value:
    """Eight columns of a dense panel, as float32."""
    at = (PANEL * unit + _LANES * half) * ITEM_BYTES[kind]
    if kind == FLOAT32:
        return _load(builder, panel, at, _FLOATS)
    if kind == FLOAT16:
        return builder.fpext(_load(builder, panel, at, ir.VectorType(_F16, _LANES), 2), _FLOATS)
    high = builder.zext(_load(builder, panel, at, ir.VectorType(_I16, _LANES), 2), _INTS)
    return builder.bitcast(builder.shl(high, ir.Constant(_INTS, [16] * _LANES)), _FLOATS)


def _pairs(builder: Any, panel: Value, at: int) -> Value:
    """Eight columns of two k each, from int8 to int16."""
    return builder.sext(_load(builder, panel, at, ir.VectorType(_I8, 2 * _LANES), 1), _SHORTS)


def _pairwise(builder: Any, left: Value, right: Value) -> Value:
    """left[2i] * right[2i] + left[2i + 1] * right[2i + 1]: LLVM knows it as vpmaddwd."""
    products = builder.mul(builder.sext(left, _PRODUCTS), builder.sext(right, _PRODUCTS))
    even, odd = (
        builder.shuffle_vector(
            products,
            ir.Constant(_PRODUCTS, ir.Undefined),
            ir.Constant(_INTS, list(range(first, 2 * _LANES, 2))),
        )
        for first in (0, 1)
    )
    return builder.add(even, odd)


def _scale(
    builder: Any, sums: list[Value], row_scales: Value, column_scales: Value, bias: Value
) -> list[Value]:
    scaled = []
    for index, total in enumerate(sums):
        row, half = divmod(index, len(_HALVES))
        factor = _splat(builder, _load(builder, row_scales, 4 * row, _F32), _FLOATS)
        wide = builder.fmul(builder.sitofp(total, _FLOATS), factor)
        wide = builder.fmul(wide, _load(builder, column_scales, 32 * half, _FLOATS))
        scaled.append(builder.fadd(wide, _load(builder, bias, 32 * half, _FLOATS)))
    return scaled


def _store_rows(builder: Any, out: Value, out_bytes: Value, values: list[Value]) -> None:
    for row, start in enumerate(_row_starts(builder, out, out_bytes, len(values) // 2)):
        for half in _HALVES:
            address = builder.add(start, _size(32 * half))
            pointer = builder.inttoptr(address, ir.PointerType(_FLOATS))
            builder.store(values[2 * row + half], pointer).align = 4


def _row_starts(builder: Any, start: Value, stride: Value, count: int) -> list[Value]:
    starts = [start]
    while len(starts) < count:
        starts.append(builder.add(starts[-1], stride))
    return starts


def _splat_float(builder: Any, start: Value, offset: Value, at: int) -> Value:
    return _splat(builder, _load(builder, builder.add(start, offset), at, _F32), _FLOATS)


def _splat(builder: Any, scalar: Value, vector: Any) -> Value:
    undefined = ir.Constant(vector, ir.Undefined)
    inserted = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(inserted, undefined, ir.Constant(_INTS, [0] * _LANES))


def _load(builder: Any, start: Value, at: int, kind: Any, align: int = 4) -> Value:
    address = builder.add(start, _size(at))
    loaded = builder.load(builder.inttoptr(address, ir.PointerType(kind)))
    loaded.align = align
    return loaded


def _size(value: int) -> Value:
    return ir.Constant(_I64, value)
