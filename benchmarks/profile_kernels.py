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
from evoserve.model.cpu.atomic import fetch_add, wait_for
from evoserve.model.cpu.attend import attend_tile
from evoserve.model.cpu.product import multiply_rows
from evoserve.model.cpu.records import Array, kv_head_bytes, wide
from evoserve.model.cpu.rows import (
    add_row,
    embed,
    quantize_row,
    rms_norm_row,
    rotate_head,
    store_key_value,
    swiglu_row,
)
from evoserve.model.cpu.scalar import floats, integers
from evoserve.model.cpu.simd import INT8, MAX_ROWS, PANEL

QKV, OUT, GATE_UP, DOWN, HEAD = range(5)
MICRO_K = 128
"""Of the micro-kernel's product in L1: panel and rows take 11 KiB or less."""


_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.intp))
_CLOCK = time.CLOCK_MONOTONIC
_NUM_FIXED = 6  # arrivals at the begin and at the end, then two times in seconds and nanoseconds


def new_cells(num_tickets: int) -> Array:
    """For one run of a kernel; tickets are what threads take their next piece from."""
    return np.zeros(_NUM_FIXED + num_tickets, np.int64)


def spent_s(cells: Array) -> float:
    """Seconds from when the last thread began until the last was through."""
    _, _, begun_s, begun_ns, ended_s, ended_ns = (int(each) for each in cells[:_NUM_FIXED])
    return ended_s - begun_s + 1e-9 * (ended_ns - begun_ns)


@compiled
def multiply_layers(
    job: Array, steps: Array, kind: int, num_threads: int, cells: Array, _thread: int
) -> None:
    """One kind of product of every step, or the head, on rows as they lie in the buffers."""
    at, each = _begin(cells, num_threads), job[0]
    if kind == HEAD:
        rows = each.scratch.normed
        _product(each, each.model.head, rows, each.scratch.logits, (at, num_threads), True)
    else:
        for index in range(steps.size):
            is_last = index == steps.size - 1
            share = (at + 8 * index, num_threads)
            _step_product(each, steps[index], kind, share, is_last)
    _end(cells, num_threads)


@compiled
def attend_layers(job: Array, steps: Array, num_threads: int, cells: Array, thread: int) -> None:
    """Attention of every step to the KV cache as it is."""
    at, each = _begin(cells, num_threads), job[0]
    heads = each.model.num_kv_heads
    for index in range(steps.size):
        cache = each.batch.cache + index * each.batch.step_bytes
        while True:
            piece = fetch_add(at + 8 * index, 1)
            if piece >= each.batch.num_tiles * heads:
                break
            attend_tile(each, steps[index], cache, piece // heads, piece % heads, thread)
    _end(cells, num_threads)


@compiled
def work_rows(job: Array, steps: Array, num_threads: int, cells: Array, thread: int) -> None:
    """All that is done to rows between the products; overwrites buffers and the newest KV."""
    _begin(cells, num_threads)
    each = job[0]
    count = each.batch.num_tokens
    first, stop = count * thread // num_threads, count * (thread + 1) // num_threads
    tokens = integers(each.batch.token_ids, count)
    for row in range(first, stop):
        residual = each.scratch.residual + row * 4 * wide(each.model.hidden)
        embed(each.model.embedding, tokens[row], 1.0, each.model.hidden, residual)
    for index in range(steps.size):
        cache = each.batch.cache + index * each.batch.step_bytes
        for row in range(first, stop):
            _one_row(each, steps[index], row)
            _rotate_and_store(each, steps[index], cache, row)
    _end(cells, num_threads)


@compiled
def meet_often(count: int, num_threads: int, cells: Array, _thread: int) -> None:
    """So many barriers with nothing between them."""
    at = _begin(cells, num_threads)
    for number in range(count):
        fetch_add(at, 1)
        wait_for(at, (number + 1) * num_threads)
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
    panel, rows = buffer.ctypes.data, buffer.ctypes.data + 4 * PANEL * MICRO_K
    out = rows + 4 * MAX_ROWS * MICRO_K
    zeros = out + 4 * MAX_ROWS * PANEL
    each, width = kernels[0], 4 * MICRO_K
    _begin(cells, num_threads)
    for _ in range(count):
        if kind == INT8:
            call(each.multiply_int8, (
                MAX_ROWS, rows, width, panel, MICRO_K, out, 4 * PANEL, zeros, zeros, zeros,
            ))  # fmt: skip
        else:
            call(each.multiply_dense, (
                kind, MAX_ROWS, rows, width, panel, MICRO_K, out, 4 * PANEL, zeros,
            ))  # fmt: skip
    _end(cells, num_threads)


@part
def _step_product(job: Any, step: Any, kind: int, share: Any, is_last: bool) -> None:
    scratch = job.scratch
    if kind == QKV:
        _product(job, step.qkv, scratch.normed, scratch.qkv, share, False)
    elif kind == OUT:
        _product(job, step.out, scratch.attended, scratch.branch, share, is_last)
    elif kind == GATE_UP:
        _product(job, step.gate_up, scratch.normed, scratch.gate_up, share, is_last)
    else:
        _product(job, step.down, scratch.activated, scratch.branch, share, is_last)


@part
def _product(job: Any, linear: Any, rows: int, out: int, share: Any, is_picked: bool) -> None:
    """is_picked: only the rows whose logits are wanted."""
    source, width = rows, 4 * wide(linear.num_in)
    if linear.kind == INT8:
        source, width = job.scratch.quantized, 2 * wide(linear.num_in)
    num_rows = job.batch.num_rows if is_picked else job.batch.num_tokens
    described = (source, width, job.scratch.row_scales)
    target = (out, 4 * PANEL * linear.num_panels)
    multiply_rows(job.kernels, linear, described, num_rows, target, share)


@part
def _one_row(job: Any, step: Any, row: int) -> None:
    """Norms, residual sums, activation and quantisation of a layer."""
    model, scratch = job.model, job.scratch
    row_bytes = 4 * wide(model.hidden)
    residual, normed = scratch.residual + row * row_bytes, scratch.normed + row * row_bytes
    branch = scratch.branch + row * row_bytes
    add_row(residual, branch, model.hidden, 1.0, 1.0)
    rms_norm_row(residual, step.input_norm, model.hidden, step.eps, normed)
    _quantize(job, step.qkv, scratch.normed, row)
    _quantize(job, step.out, scratch.attended, row)
    add_row(residual, branch, model.hidden, 1.0, 1.0)
    rms_norm_row(residual, step.post_norm, model.hidden, step.eps, normed)
    _quantize(job, step.gate_up, scratch.normed, row)
    width = model.intermediate
    gate_up = scratch.gate_up + row * 4 * wide(2 * width)
    swiglu_row(gate_up, width, scratch.activated + row * 4 * wide(width))
    _quantize(job, step.down, scratch.activated, row)


@part
def _rotate_and_store(job: Any, step: Any, cache: int, row: int) -> None:
    model, batch = job.model, job.batch
    dim, num_heads, num_kv_heads = model.head_dim, model.num_heads, model.num_kv_heads
    cosines = integers(batch.cosines + 8 * step.rope, 1)[0]
    sines = integers(batch.sines + 8 * step.rope, 1)[0]
    angle = 4 * integers(batch.positions, row + 1)[row] * dim
    heads = job.scratch.qkv + row * 4 * wide((num_heads + 2 * num_kv_heads) * dim)
    for head in range(num_heads + num_kv_heads):
        rotate_head(heads + 4 * head * dim, dim, cosines + angle, sines + angle)
    block, offset = divmod(integers(batch.slots, row + 1)[row], batch.block_size)
    head_bytes = kv_head_bytes(dim, batch.block_size)
    for kv_head in range(num_kv_heads):
        key = heads + 4 * (num_heads + kv_head) * dim
        value = key + 4 * num_kv_heads * dim
        head_cache = cache + (block * num_kv_heads + kv_head) * head_bytes
        store_key_value(key, value, dim, head_cache, batch.block_size, offset)


@part
def _quantize(job: Any, linear: Any, rows: int, row: int) -> None:
    if linear.kind == INT8:
        scratch, width = job.scratch, wide(linear.num_in)
        target = scratch.quantized + 2 * row * width
        scales = floats(scratch.row_scales, row + 1)
        source = rows + 4 * row * width
        scales[row] = quantize_row(source, linear.num_in, linear.largest, target)


@part
def _begin(cells: Array, num_threads: int) -> Any:
    """Wait for all threads; address of the tickets."""
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
