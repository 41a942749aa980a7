"""One forward pass along the path, run by every thread of a team at once.

Phases follow `evoserve.model.torch_forward`; each is cut into pieces that are handed out to
whoever asks, and the next begins when all pieces are done. Which thread does what changes no bit.
"""

from typing import Any

from evoserve.jit import part
from evoserve.model.cpu.atomic import PHASE_BYTES, first_piece, next_piece
from evoserve.model.cpu.attend import attend_tile
from evoserve.model.cpu.product import multiply_rows
from evoserve.model.cpu.records import kv_head_bytes, wide
from evoserve.model.cpu.rows import (
    add_row,
    copy_row,
    embed,
    quantize_row,
    rms_norm_row,
    rotate_head,
    store_key_value,
    swiglu_row,
)
from evoserve.model.cpu.scalar import floats, integers
from evoserve.model.cpu.simd import INT8, PANEL

PHASES_PER_STEP = 10
PHASES_AT_END = 3
_PIECES_PER_THREAD = 4


@part
def run_path(job: Any, steps: Any, thread: int) -> None:
    """Thread `thread`'s part of the pass; all must call it with the same job.

    Fills the KV cache and `scratch.logits`. steps: records.STEP (num_steps,).
    """
    model, batch, scratch = job.model, job.batch, job.scratch
    num_rows = batch.num_tokens
    last = model.num_steps - 1
    end = job.team.phases + PHASE_BYTES * PHASES_PER_STEP * model.num_steps
    for index in range(model.num_steps):
        step = steps[index]
        phase = job.team.phases + PHASE_BYTES * PHASES_PER_STEP * index
        cache = batch.cache + index * batch.step_bytes
        _enter(job, step, index == 0, phase)
        run_product(job, step.qkv, scratch.normed, num_rows, scratch.qkv, phase + PHASE_BYTES)
        _rotate_and_store(job, step, cache, phase + 2 * PHASE_BYTES)
        if index == last and batch.num_rows == 0:
            return
        attend(job, step, cache, phase + 3 * PHASE_BYTES, thread)
        if index == last and batch.num_rows < batch.num_tokens:
            num_rows = batch.num_rows
            _pick_rows(job, end)
        _finish_attention(job, step, num_rows, phase + 4 * PHASE_BYTES)
        _mlp(job, step, num_rows, phase + 7 * PHASE_BYTES)
    _head(job, num_rows, end + PHASE_BYTES)


@part
def _enter(job: Any, step: Any, is_first: bool, phase: int) -> None:
    """The step's input: the embedding or what the step before left, scaled; then its norm."""
    model, batch, scratch = job.model, job.batch, job.scratch
    hidden, row_bytes = model.hidden, 4 * wide(model.hidden)
    tokens = integers(batch.token_ids, batch.num_tokens)
    size = _rows_per_piece(job, batch.num_tokens)
    count = -(-batch.num_tokens // size)
    piece = first_piece(phase, count)
    while piece >= 0:
        for row in range(piece * size, min((piece + 1) * size, batch.num_tokens)):
            residual = scratch.residual + row * row_bytes
            if is_first:
                embed(model.embedding, tokens[row], step.scale, hidden, residual)
            else:
                branch = scratch.branch + row * row_bytes
                _join(residual, branch, hidden, step.scale, model.scales_hidden_state)
            normed = scratch.normed + row * row_bytes
            rms_norm_row(residual, step.input_norm, hidden, step.eps, normed)
            quantize_input(job, step.qkv, scratch.normed, row)
        piece = next_piece(phase, count)


@part
def _join(residual: int, branch: int, count: int, scale: float, scales_hidden_state: int) -> None:
    if scales_hidden_state:
        add_row(residual, branch, count, 1.0, scale)
    else:
        add_row(residual, branch, count, scale, 1.0)


@part
def _rotate_and_store(job: Any, step: Any, cache: int, phase: int) -> None:
    """Queries and keys get their norms and positions; keys and values go into the cache."""
    batch = job.batch
    positions = integers(batch.positions, batch.num_tokens)
    slots = integers(batch.slots, batch.num_tokens)
    size = _rows_per_piece(job, batch.num_tokens)
    count = -(-batch.num_tokens // size)
    piece = first_piece(phase, count)
    while piece >= 0:
        for row in range(piece * size, min((piece + 1) * size, batch.num_tokens)):
            rotate_row(job, step, row, positions[row])
            store_row(job, cache, row, slots[row])
        piece = next_piece(phase, count)


@part
def rotate_row(job: Any, step: Any, row: int, position: int) -> None:
    """Norm, if there is one, and rotation of a token's queries and keys, in place."""
    model, dim = job.model, job.model.head_dim
    cosines = integers(job.batch.cosines + 8 * step.rope, 1)[0] + 4 * position * dim
    sines = integers(job.batch.sines + 8 * step.rope, 1)[0] + 4 * position * dim
    heads = job.scratch.qkv + row * _qkv_bytes(model)
    for head in range(model.num_heads + model.num_kv_heads):
        at = heads + 4 * head * dim
        if step.qk_norm:
            rms_norm_row(at, step.qk_norm + 4 * head * dim, dim, step.eps, at)
        rotate_head(at, dim, cosines, sines)


@part
def store_row(job: Any, cache: int, row: int, slot: int) -> None:
    """A token's keys and values into the step's part of the cache."""
    model, dim, block_size = job.model, job.model.head_dim, job.batch.block_size
    head_bytes = kv_head_bytes(dim, block_size)
    heads = job.scratch.qkv + row * _qkv_bytes(model)
    block, offset = divmod(slot, block_size)
    for kv_head in range(model.num_kv_heads):
        key = heads + 4 * (model.num_heads + kv_head) * dim
        value = key + 4 * model.num_kv_heads * dim
        head_cache = cache + (block * model.num_kv_heads + kv_head) * head_bytes
        store_key_value(key, value, dim, head_cache, block_size, offset)


@part
def attend(job: Any, step: Any, cache: int, phase: int, thread: int) -> None:
    """This thread's share of one step's attention."""
    num_kv_heads = job.model.num_kv_heads
    count = job.batch.num_tiles * num_kv_heads
    piece = first_piece(phase, count)
    while piece >= 0:
        tile, kv_head = divmod(piece, num_kv_heads)
        attend_tile(job, step, cache, tile, kv_head, thread)
        piece = next_piece(phase, count)


@part
def _pick_rows(job: Any, phase: int) -> None:
    """Move the rows whose logits are wanted to the front."""
    model, scratch = job.model, job.scratch
    rows = integers(job.batch.logit_rows, job.batch.num_rows)
    piece = first_piece(phase, 1)
    while piece >= 0:
        for matrix, width in (
            (scratch.attended, wide(model.num_heads * model.head_dim)),
            (scratch.residual, wide(model.hidden)),
        ):
            for index in range(rows.size):
                copy_row(matrix + 4 * rows[index] * width, width, matrix + 4 * index * width)
        piece = next_piece(phase, 1)


@part
def _finish_attention(job: Any, step: Any, num_rows: int, phase: int) -> None:
    """Output projection, added to the residual, and the second norm."""
    scratch = job.scratch
    size = _rows_per_piece(job, num_rows)
    count = -(-num_rows // size)
    if step.out.kind == INT8:
        piece = first_piece(phase, count)
        while piece >= 0:
            for row in range(piece * size, min((piece + 1) * size, num_rows)):
                quantize_input(job, step.out, scratch.attended, row)
            piece = next_piece(phase, count)
    phase += PHASE_BYTES
    run_product(job, step.out, scratch.attended, num_rows, scratch.branch, phase)
    _add_and_norm(job, (step.post_norm, step.eps), step.gate_up, num_rows, phase + PHASE_BYTES)


@part
def _add_and_norm(job: Any, norm: Any, following: Any, num_rows: int, phase: int) -> None:
    """Add the branch to the residual; its norm (weight, eps), quantised if `following` is."""
    scratch, hidden = job.scratch, job.model.hidden
    row_bytes = 4 * wide(hidden)
    size = _rows_per_piece(job, num_rows)
    count = -(-num_rows // size)
    piece = first_piece(phase, count)
    while piece >= 0:
        for row in range(piece * size, min((piece + 1) * size, num_rows)):
            residual = scratch.residual + row * row_bytes
            add_row(residual, scratch.branch + row * row_bytes, hidden, 1.0, 1.0)
            rms_norm_row(residual, norm[0], hidden, norm[1], scratch.normed + row * row_bytes)
            quantize_input(job, following, scratch.normed, row)
        piece = next_piece(phase, count)


@part
def _mlp(job: Any, step: Any, num_rows: int, phase: int) -> None:
    """The gated MLP; its output is left in `scratch.branch`."""
    scratch, width = job.scratch, job.model.intermediate
    run_product(job, step.gate_up, scratch.normed, num_rows, scratch.gate_up, phase)
    phase += PHASE_BYTES
    size = _rows_per_piece(job, num_rows)
    count = -(-num_rows // size)
    piece = first_piece(phase, count)
    while piece >= 0:
        for row in range(piece * size, min((piece + 1) * size, num_rows)):
            gate_up = scratch.gate_up + row * 4 * wide(2 * width)
            swiglu_row(gate_up, width, scratch.activated + row * 4 * wide(width))
            quantize_input(job, step.down, scratch.activated, row)
        piece = next_piece(phase, count)
    phase += PHASE_BYTES
    run_product(job, step.down, scratch.activated, num_rows, scratch.branch, phase)


@part
def _head(job: Any, num_rows: int, phase: int) -> None:
    model, scratch = job.model, job.scratch
    _add_and_norm(job, (model.norm, model.norm_eps), model.head, num_rows, phase)
    run_product(job, model.head, scratch.normed, num_rows, scratch.logits, phase + PHASE_BYTES)


@part
def run_product(job: Any, linear: Any, rows: int, num_rows: int, out: int, phase: int) -> None:
    """This thread's share of one product; the rows of an int8 one are quantised already."""
    scratch = job.scratch
    source, width = rows, 4 * wide(linear.num_in)
    if linear.kind == INT8:
        source, width = scratch.quantized, 2 * wide(linear.num_in)
    target = (out, 4 * PANEL * linear.num_panels)
    described = (source, width, scratch.row_scales)
    share = (phase, job.team.num_threads)
    multiply_rows(job.kernels, linear, described, num_rows, target, share)


@part
def quantize_input(job: Any, linear: Any, rows: int, row: int) -> None:
    """Row `row` of the input of an int8 product; nothing to do for another."""
    if linear.kind == INT8:
        scratch, width = job.scratch, wide(linear.num_in)
        scales = floats(scratch.row_scales, row + 1)
        out = scratch.quantized + 2 * row * width
        scales[row] = quantize_row(rows + 4 * row * width, linear.num_in, linear.largest, out)


@part
def _rows_per_piece(job: Any, num_rows: int) -> int:
    pieces: int = _PIECES_PER_THREAD * job.team.num_threads
    return max(1, num_rows // pieces)


@part
def _qkv_bytes(model: Any) -> int:
    return 4 * wide((model.num_heads + 2 * model.num_kv_heads) * model.head_dim)
