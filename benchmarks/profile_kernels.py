"""Compiled loops that call the engine's kernels one kind at a time, on every thread of a team.

Each function takes cells that are 0 at first, see `new_cells`, and the number of its thread. All
threads begin together and end together; the last of them notes either time in the cells, so that
nothing of Python, whose threads wake up late, is on the clock.
"""

import time
from typing import Any

import numpy as np
from numba.core import types

from evoserve.jit import call, compiled, part
from evoserve.model.cpu.atomic import (
    CELL_BYTES,
    PHASE_BYTES,
    fetch_add,
    first_piece,
    next_piece,
    wait_for,
)
from evoserve.model.cpu.forward import attend, quantize_input, rotate_row, run_product, store_row
from evoserve.model.cpu.records import Array, wide
from evoserve.model.cpu.rows import add_row, embed, rms_norm_row, swiglu_row
from evoserve.model.cpu.scalar import integers
from evoserve.model.cpu.simd import INT8, MAX_ROWS, PANEL

QKV, OUT, GATE_UP, DOWN, HEAD = range(5)
MICRO_K = 128
"""Of the micro-kernel's product in L1: panel and rows take 11 KiB or less."""


_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_CLOCK = time.CLOCK_MONOTONIC
_NUM_FIXED = 6  # arrivals at the begin and at the end, then two times in seconds and nanoseconds


def new_cells(num_phases: int) -> Array:
    """For one run of a kernel; each of its phases is shared out as the engine's are."""
    return np.zeros(_NUM_FIXED + PHASE_BYTES // CELL_BYTES * num_phases, np.int64)


def spent_s(cells: Array) -> float:
    """Seconds from when the last thread began until the last was through."""
    _, _, begun_s, begun_ns, ended_s, ended_ns = (int(each) for each in cells[:_NUM_FIXED])
    return ended_s - begun_s + 1e-9 * (ended_ns - begun_ns)


@compiled
def multiply_layers(
    job: Array, steps: Array, kind: int, num_threads: int, cells: Array, _thread: int
) -> None:
    """One kind of product of every step, or the head, on rows as they lie in the buffers."""
    phase, each = _begin(cells, num_threads), job[0]
    if kind == HEAD:
        scratch, num_rows = each.scratch, each.batch.num_rows
        run_product(each, each.model.head, scratch.normed, num_rows, scratch.logits, phase)
    else:
        for index in range(steps.size):
            is_last = index == steps.size - 1
            _step_product(each, steps[index], kind, is_last, phase + PHASE_BYTES * index)
    _end(cells, num_threads)


@compiled
def attend_layers(job: Array, steps: Array, num_threads: int, cells: Array, thread: int) -> None:
    """Attention of every step to the KV cache as it is."""
    phase, each = _begin(cells, num_threads), job[0]
    for index in range(steps.size):
        cache = each.batch.cache + index * each.batch.step_bytes
        attend(each, steps[index], cache, phase + PHASE_BYTES * index, thread)
    _end(cells, num_threads)


@compiled
def work_rows(job: Array, steps: Array, num_threads: int, cells: Array, thread: int) -> None:
    """All that is done to rows between the products; overwrites buffers and the newest KV."""
    _begin(cells, num_threads)
    each = job[0]
    count = each.batch.num_tokens
    first, stop = count * thread // num_threads, count * (thread + 1) // num_threads
    tokens = integers(each.batch.token_ids, count)
    positions, slots = integers(each.batch.positions, count), integers(each.batch.slots, count)
    for row in range(first, stop):
        residual = each.scratch.residual + row * 4 * wide(each.model.hidden)
        embed(each.model.embedding, tokens[row], 1.0, each.model.hidden, residual)
    for index in range(steps.size):
        cache = each.batch.cache + index * each.batch.step_bytes
        for row in range(first, stop):
            _one_row(each, steps[index], row)
            rotate_row(each, steps[index], row, positions[row])
            store_row(each, cache, row, slots[row])
    _end(cells, num_threads)


@compiled
def pass_phases(count: int, num_threads: int, cells: Array, _thread: int) -> None:
    """So many phases of one piece with nothing to do."""
    begin = _begin(cells, num_threads)
    for number in range(count):
        phase = begin + PHASE_BYTES * number
        piece = first_piece(phase, 1)
        while piece >= 0:
            piece = next_piece(phase, 1)
    _end(cells, num_threads)


@compiled
def read_through(data: Array, num_threads: int, cells: Array, thread: int) -> int:
    """Sum int64 of a large array, a part for each thread."""
    _begin(cells, num_threads)
    first = data.size * thread // num_threads
    stop = data.size * (thread + 1) // num_threads
    total = 0
    for i in range(first, stop):
        total += data[i]
    _end(cells, num_threads)
    return total


@compiled
def multiply_in_cache(
    kernels: Array, kind: int, count: int, num_threads: int, cells: Array, _thread: int
) -> None:
    """The micro-kernel `count` times on rows and a panel that stay in the L1 cache."""
    buffer = np.zeros(4 * PANEL * MICRO_K, np.float32)
    panel = (buffer.ctypes.data + 63) // 64 * 64  # vectors within a cache line, as of weights
    rows = panel + 4 * PANEL * MICRO_K
    out = rows + 4 * MAX_ROWS * MICRO_K
    zeros = out + 4 * MAX_ROWS * PANEL
    each, width = kernels[0], 4 * MICRO_K
    _begin(cells, num_threads)
    for _ in range(count):
        if kind == INT8:
            call(each.multiply_int8, (
                MAX_ROWS, rows, width, panel, MICRO_K, out, 4 * PANEL, zeros, 0, zeros, zeros,
            ))  # fmt: skip
        else:
            call(each.multiply_dense, (
                kind, MAX_ROWS, rows, width, panel, MICRO_K, out, 4 * PANEL, zeros, 0,
            ))  # fmt: skip
    _end(cells, num_threads)


@part
def _step_product(job: Any, step: Any, kind: int, is_last: bool, phase: int) -> None:
    """Of the last step all but qkv take only the rows whose logits are wanted."""
    scratch, num_rows = job.scratch, job.batch.num_tokens
    if kind == QKV:
        run_product(job, step.qkv, scratch.normed, num_rows, scratch.qkv, phase)
        return
    if is_last:
        num_rows = job.batch.num_rows
    if kind == OUT:
        run_product(job, step.out, scratch.attended, num_rows, scratch.branch, phase)
    elif kind == GATE_UP:
        run_product(job, step.gate_up, scratch.normed, num_rows, scratch.gate_up, phase)
    else:
        run_product(job, step.down, scratch.activated, num_rows, scratch.branch, phase)


@part
def _one_row(job: Any, step: Any, row: int) -> None:
    """Norms, residual sums, activation and quantisation of a layer."""
    model, scratch = job.model, job.scratch
    row_bytes = 4 * wide(model.hidden)
    residual, normed = scratch.residual + row * row_bytes, scratch.normed + row * row_bytes
    branch = scratch.branch + row * row_bytes
    add_row(residual, branch, model.hidden, 1.0, 1.0)
    rms_norm_row(residual, step.input_norm, model.hidden, step.eps, normed)
    quantize_input(job, step.qkv, scratch.normed, row)
    quantize_input(job, step.out, scratch.attended, row)
    add_row(residual, branch, model.hidden, 1.0, 1.0)
    rms_norm_row(residual, step.post_norm, model.hidden, step.eps, normed)
    quantize_input(job, step.gate_up, scratch.normed, row)
    width = model.intermediate
    gate_up = scratch.gate_up + row * 4 * wide(2 * width)
    swiglu_row(gate_up, width, scratch.activated + row * 4 * wide(width))
    quantize_input(job, step.down, scratch.activated, row)


@part
def _begin(cells: Array, num_threads: int) -> Any:
    """Wait for all threads; address of the phases."""
    at = cells.ctypes.data
    _meet(at, at + 16, num_threads)
    return at + 8 * _NUM_FIXED


@part
def _end(cells: Array, num_threads: int) -> None:
    at = cells.ctypes.data
    _meet(at + 8, at + 32, num_threads)


@part
def _meet(arrivals: int, stamp: int, num_threads: int) -> None:
    """The last thread that comes notes the time."""
    if fetch_add(arrivals, 1) == num_threads - 1:
        _clock_gettime(_CLOCK, stamp)
    wait_for(arrivals, num_threads)
