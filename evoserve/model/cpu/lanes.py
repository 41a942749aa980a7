"""Building blocks of micro-kernels in LLVM: vectors of eight lanes, loops, memory by address."""

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

LANES = 8
F32, F16, I8, I16, I32, I64 = (
    ir.FloatType(),
    ir.HalfType(),
    *(ir.IntType(bits) for bits in (8, 16, 32, 64)),
)
FLOATS, INTS = ir.VectorType(F32, LANES), ir.VectorType(I32, LANES)
SHORTS = ir.VectorType(I16, 2 * LANES)
Value = Any

_LINE_BYTES = 64
_FMA, _PREFETCH = "llvm.fma.v8f32", "llvm.prefetch.p0"
_Step = Callable[[Value, Value, list[Value]], list[Value]]


def arguments_at(builder: Any, address: Value, count: int) -> list[Value]:
    """`count` int64 that lie side by side."""
    return [load(builder, address, 8 * index, I64, 8) for index in range(count)]


def switch(builder: Any, value: Value, cases: Iterable[int], emit: Callable[[int], None]) -> None:
    """Code for each case of an int64, and none for the others; goes on after all of them."""
    end = builder.append_basic_block("end")
    chosen = builder.switch(value, end)
    for case in cases:
        block = builder.append_basic_block(f"case{case}")
        chosen.add_case(size(case), block)
        builder.position_at_end(block)
        emit(case)
        builder.branch(end)
    builder.position_at_end(end)


def loop(
    builder: Any,
    start: Value,
    stop: Value,
    strides: tuple[Any, Any],
    first: list[Value],
    step: _Step,
) -> list[Value]:
    """Run `step(address, row offset, sums)` until `stop`, at least once; the last sums.

    strides: of address and offset, integers or values; a step may hold another loop.
    """
    before, body = builder.block, builder.append_basic_block("k")
    after = builder.append_basic_block("sums")
    builder.branch(body)
    builder.position_at_end(body)
    at, offset = builder.phi(I64), builder.phi(I64)
    at.add_incoming(start, before)
    offset.add_incoming(size(0), before)
    sums = [builder.phi(value.type) for value in first]
    for phi, value in zip(sums, first, strict=True):
        phi.add_incoming(value, before)
    results = step(at, offset, sums)
    end = builder.block
    for phi, value in zip(sums, results, strict=True):
        phi.add_incoming(value, end)
    by, offset_by = (size(each) if isinstance(each, int) else each for each in strides)
    following = builder.add(at, by)
    at.add_incoming(following, end)
    offset.add_incoming(builder.add(offset, offset_by), end)
    builder.cbranch(builder.icmp_unsigned("<", following, stop), body, after)
    builder.position_at_end(after)
    return results


def multiply_add(
    builder: Any, factors: list[Value], columns: list[Value], sums: list[Value]
) -> list[Value]:
    """Each factor times each column, added to the sums, (factor, column) in order; FLOATS all."""
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    fma = builder.module.globals.get(_FMA) or ir.Function(builder.module, kind, _FMA)
    pairs = ((factor, column) for factor in factors for column in columns)
    return [
        builder.call(fma, [factor, column, total])
        for (factor, column), total in zip(pairs, sums, strict=True)
    ]


def row_starts(builder: Any, start: Value, stride: Value, count: int) -> list[Value]:
    """Addresses of `count` rows that begin `stride` bytes apart."""
    starts = [start]
    while len(starts) < count:
        starts.append(builder.add(starts[-1], stride))
    return starts


def splat_float(builder: Any, start: Value, offset: Value, at: int) -> Value:
    """The float32 `at` bytes behind start + offset, in all lanes."""
    return splat(builder, load(builder, builder.add(start, offset), at, F32), FLOATS)


def splat(builder: Any, scalar: Value, vector: Any) -> Value:
    """A scalar in all lanes."""
    undefined = ir.Constant(vector, ir.Undefined)
    inserted = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(inserted, undefined, ir.Constant(INTS, [0] * LANES))


def load(builder: Any, start: Value, at: int, kind: Any, align: int = 4) -> Value:
    """What lies `at` bytes behind an address; a vector need not be aligned as a whole."""
    address = builder.add(start, size(at))
    loaded = builder.load(builder.inttoptr(address, ir.PointerType(kind)))
    loaded.align = align
    return loaded


def prefetch(builder: Any, start: Value, num_bytes: int) -> None:
    """Ask for the cache lines of what will be read soon, into the L2 cache."""
    kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(I8), I32, I32, I32])
    ask = builder.module.globals.get(_PREFETCH) or ir.Function(builder.module, kind, _PREFETCH)
    is_write, locality, is_data = (ir.Constant(I32, value) for value in (0, 2, 1))
    for at in range(0, num_bytes, _LINE_BYTES):
        address = builder.inttoptr(builder.add(start, size(at)), ir.PointerType(I8))
        builder.call(ask, [address, is_write, locality, is_data])


def size(value: int) -> Value:
    """A constant of 64 bits."""
    return ir.Constant(I64, value)
