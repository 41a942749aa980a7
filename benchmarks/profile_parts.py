"""The kernels of a pass one kind at a time, on the pass's own records, beside their limits."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.profile_kernels import (
    DOWN,
    GATE_UP,
    HEAD,
    MICRO_K,
    OUT,
    QKV,
    attend_layers,
    multiply_in_cache,
    multiply_layers,
    pass_phases,
    read_through,
    work_rows,
)
from benchmarks.profile_result import Limits, Part
from benchmarks.profile_team import Kernel, Stopwatch
from evoserve.model.cpu.native import load_kernels
from evoserve.model.cpu.packed import PackedLinear
from evoserve.model.cpu.records import Array
from evoserve.model.cpu.simd import FLOAT32, INT8, MAX_ROWS, PANEL
from evoserve.model.linear import Linear
from evoserve.model.parts import PathParts

PRODUCTS = {"qkv": QKV, "out": OUT, "gate and up": GATE_UP, "down": DOWN, "head": HEAD}
_STREAM_BYTES = 256 * 2**20
_NUM_MICRO = 20_000
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Load:
    """What a pass has to do: rows of the products, and of the last ones; tokens attended to.

    num_read: keys that must be fetched, those that a sequence's tokens share counted once;
    num_pairs: query by key.
    """

    num_tokens: int
    num_rows: int
    num_read: int
    num_pairs: int


def measure_limits(watch: Stopwatch, *, is_int8: bool) -> Limits:
    """Memory and arithmetic, by all threads; the best of several runs each."""
    data = np.ones(_STREAM_BYTES // 8, np.int64)
    kernels, kind = load_kernels().record, INT8 if is_int8 else FLOAT32

    read = partial(read_through, data, watch.num_threads)
    multiply = partial(multiply_in_cache, kernels, kind, _NUM_MICRO, watch.num_threads)
    operations = 2 * MAX_ROWS * PANEL * MICRO_K * _NUM_MICRO * watch.num_threads
    return {
        "bytes_per_s": [data.nbytes / s for s in watch.time(read, repetitions=7, is_cold=False)],
        "operations_per_s": [
            operations / s for s in watch.time(multiply, repetitions=7, is_cold=False)
        ],
    }


def measure_parts(
    watch: Stopwatch, parts: PathParts, load: Load, records: tuple[Array, Array], repetitions: int
) -> list[Part]:
    """records: job and steps of a pass that has just run; overwrites its buffers."""
    job, steps = records
    threads, found = watch.num_threads, []

    def add(name: str, kernel: Kernel, num_bytes: int, operations: int) -> None:
        phases = max(steps.size, num_row_phases(parts))
        times = watch.time(kernel, num_phases=phases, repetitions=repetitions, is_cold=True)
        found.append(_part(name, times, num_bytes, operations))

    for name, kind in PRODUCTS.items():
        product = partial(multiply_layers, job, steps, kind, threads)
        add(name, product, *product_costs(parts, name, load))
    add("attention", partial(attend_layers, job, steps, threads), *attention_costs(parts, load))
    add("rows", partial(work_rows, job, steps, threads), 0, 0)
    add("handing out rows", partial(pass_phases, num_row_phases(parts), threads), 0, 0)
    return found


def product_costs(parts: PathParts, name: str, load: Load) -> tuple[int, int]:
    """(weight bytes, operations) of one kind of product over all steps, 2 per weight and row."""
    if name == "head":
        return _costs(parts.ends.head, load.num_rows)
    field = name.replace("gate and up", "gate_up")
    linears = [getattr(step.layer, field) for step in parts.steps]
    rows = [load.num_tokens] * len(linears)
    if field != "qkv":
        rows[-1] = load.num_rows
    pairs = [_costs(each, count) for each, count in zip(linears, rows, strict=True)]
    return sum(num_bytes for num_bytes, _ in pairs), sum(number for _, number in pairs)


def attention_costs(parts: PathParts, load: Load) -> tuple[int, int]:
    """(bytes of keys and values, operations) over all steps."""
    layer = parts.steps[0].layer
    token_bytes = 2 * _FLOAT_BYTES * layer.num_kv_heads * layer.head_dim
    operations = 4 * layer.num_heads * layer.head_dim
    return (
        len(parts.steps) * load.num_read * token_bytes,
        len(parts.steps) * load.num_pairs * operations,
    )


def num_row_phases(parts: PathParts) -> int:
    """Phases of a pass between the products: four a step, one more for int8, one of the head."""
    out = parts.steps[0].layer.out
    is_int8 = isinstance(out, PackedLinear) and out.kind == INT8
    return (4 + is_int8) * len(parts.steps) + 1


def _costs(linear: Linear, num_rows: int) -> tuple[int, int]:
    if not isinstance(linear, PackedLinear):
        raise TypeError(f"{type(linear).__name__} is not packed for the CPU's kernels")
    return linear.num_bytes, 2 * linear.num_in * linear.num_out * num_rows


def _part(name: str, seconds: list[float], num_bytes: int, operations: int) -> Part:
    return {"name": name, "seconds": seconds, "num_bytes": num_bytes, "operations": operations}
