"""Attention of one tile: a few tokens of a sequence, the query heads that share one KV head.

Blocks are read where they lie, nothing is gathered. A query's scores, softmax and sum over values
run in the order of positions from the first block it sees: its result has the same bits in
whatever chunk or batch it is computed.
"""

import math
from typing import Any

import numpy as np

from evoserve.jit import call, part, reordered_part
from evoserve.model.cpu.records import kv_head_bytes, padded_in, wide
from evoserve.model.cpu.rows import copy_row
from evoserve.model.cpu.scalar import exponential, floats, integers, largest_of
from evoserve.model.cpu.simd import FLOAT32, MAX_ROWS, PANEL

_ZERO = np.float32(0.0)


@part
def attend_tile(job: Any, step: Any, cache: int, tile: int, kv_head: int, thread: int) -> None:
    """Write the tile's part of `scratch.attended`; cache: the step's part of the KV cache."""
    batch, scratch = job.batch, job.scratch
    described = integers(batch.tiles + 24 * tile, 3)
    first_token, num_tokens = described[1], described[2]
    first = integers(batch.positions + 8 * first_token, 1)[0]
    stop = first + num_tokens
    begin = max(0, first + 1 - step.window) // batch.block_size * batch.block_size
    table = batch.tables + 8 * described[0] * batch.table_width
    span = (begin, stop, table, cache, kv_head)
    row_bytes = 4 * wide(job.model.head_dim)
    queries = scratch.tile_rows + 2 * thread * scratch.max_tile_rows * row_bytes
    outputs = queries + scratch.max_tile_rows * row_bytes
    scores = scratch.scores + 4 * thread * scratch.max_tile_rows * scratch.score_width
    group = job.model.num_heads // job.model.num_kv_heads
    num_rows = num_tokens * group
    _load_queries(job, first_token, kv_head, num_rows, queries)
    _score(job, span, queries, num_rows, scores)
    for row in range(num_rows):
        end = first + row // group + 1
        start = max(0, end - step.window)
        at = scores + 4 * row * scratch.score_width
        _softmax(at, start - begin, end - begin, stop - begin)
    _weigh(job, span, scores, num_rows, outputs)
    _store_outputs(job, first_token, kv_head, num_rows, outputs)


@part
def _load_queries(job: Any, first_token: int, kv_head: int, num_rows: int, queries: int) -> None:
    """Scaled and zero padded."""
    model = job.model
    dim, group = model.head_dim, model.num_heads // model.num_kv_heads
    width = wide(dim)
    qkv_bytes = 4 * wide((model.num_heads + 2 * model.num_kv_heads) * dim)
    scale = np.float32(1.0 / math.sqrt(dim))
    for row in range(num_rows):
        head = kv_head * group + row % group
        token = first_token + row // group
        source = floats(job.scratch.qkv + token * qkv_bytes + 4 * head * dim, dim)
        query = floats(queries + 4 * row * width, width)
        for i in range(dim):
            query[i] = source[i] * scale
        for i in range(dim, width):
            query[i] = _ZERO


@part
def _score(job: Any, span: Any, queries: int, num_rows: int, scores: int) -> None:
    """Column p of a row of `scores` is query * key at position begin + p."""
    begin, stop, _, cache, kv_head = span
    batch, dim = job.batch, job.model.head_dim
    query_bytes, score_bytes = 4 * wide(dim), 4 * job.scratch.score_width
    panel_bytes = 4 * PANEL * padded_in(dim)
    keys_bytes = 4 * wide(batch.block_size) * padded_in(dim)
    blocks = _blocks(job, span)
    first = _head_cache(job, cache, kv_head, blocks[0])
    keys, out = first, scores
    for index in range(blocks.size):
        following = first + keys_bytes
        if index + 1 < blocks.size:
            following = _head_cache(job, cache, kv_head, blocks[index + 1])
        last = min(stop - begin - index * batch.block_size, batch.block_size)
        for offset in range(0, last, PANEL):
            panel = keys + offset // PANEL * panel_bytes
            row = 0
            while row < num_rows:
                count = min(MAX_ROWS, num_rows - row)
                call(job.kernels.multiply_dense, (
                    FLOAT32, count, queries + row * query_bytes, query_bytes, panel, padded_in(dim),
                    out + row * score_bytes + 4 * offset, score_bytes, job.scratch.zeros,
                    following - keys,
                ))  # fmt: skip
                row += count
        keys = following
        out += 4 * batch.block_size


@part
def _weigh(job: Any, span: Any, scores: int, num_rows: int, outputs: int) -> None:
    """Sums of the values, weighted with the probabilities that `scores` holds by now."""
    begin, stop, _, cache, kv_head = span
    batch, dim = job.batch, job.model.head_dim
    row_bytes, score_bytes = 4 * wide(dim), 4 * job.scratch.score_width
    block_bytes = job.model.num_kv_heads * kv_head_bytes(dim, batch.block_size)
    values = _head_cache(job, cache, kv_head, 0) + 4 * wide(batch.block_size) * padded_in(dim)
    blocks = _blocks(job, span)
    first = blocks.ctypes.data
    most = 2 * PANEL if num_rows <= MAX_ROWS // 2 else PANEL
    for row in range(0, num_rows, MAX_ROWS):
        count = min(MAX_ROWS, num_rows - row)
        for column in range(0, wide(dim), most):
            call(job.kernels.accumulate, (
                min(most, wide(dim) - column), count, scores + row * score_bytes, score_bytes,
                stop - begin, first, first + 8 * blocks.size, batch.block_size, block_bytes,
                values + 4 * column, row_bytes, outputs + row * row_bytes + 4 * column, row_bytes,
            ))  # fmt: skip


@part
def _blocks(job: Any, span: Any) -> Any:
    """int64: the blocks that hold positions begin to stop."""
    begin, stop, table, _, _ = span
    first, last = begin // job.batch.block_size, (stop - 1) // job.batch.block_size
    return integers(table + 8 * first, last - first + 1)


@part
def _head_cache(job: Any, cache: int, kv_head: int, block: int) -> int:
    """Address of what a block holds of `kv_head`."""
    size = kv_head_bytes(job.model.head_dim, job.batch.block_size)
    number: int = block * job.model.num_kv_heads + kv_head
    return cache + number * size


@reordered_part
def _softmax(at: int, start: int, end: int, stop: int) -> None:
    """Probabilities of columns [start, end) in place; the others of [0, stop) become zero."""
    row, seen = floats(at, stop), floats(at + 4 * start, end - start)
    largest = largest_of(at + 4 * start, seen.size)
    total = _ZERO
    for i in range(seen.size):
        seen[i] = exponential(seen[i] - largest)
        total += seen[i]
    inverse = np.float32(1.0) / total
    for i in range(seen.size):
        seen[i] *= inverse
    for i in range(start):
        row[i] = _ZERO
    for i in range(end, stop):
        row[i] = _ZERO


@part
def _store_outputs(job: Any, first_token: int, kv_head: int, num_rows: int, outputs: int) -> None:
    model = job.model
    dim, group = model.head_dim, model.num_heads // model.num_kv_heads
    attended_bytes = 4 * wide(model.num_heads * dim)
    for row in range(num_rows):
        head = kv_head * group + row % group
        token = first_token + row // group
        target = job.scratch.attended + token * attended_bytes + 4 * head * dim
        copy_row(outputs + 4 * row * wide(dim), dim, target)
