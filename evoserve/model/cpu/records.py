"""What the compiled forward pass reads: weights, sizes, buffers and batch, as records of addresses.

Rows of float32 buffers are padded to a multiple of 16 columns; padding of what a product reads is
zero and stays so, padding of what it writes is garbage that nobody reads.
"""

from typing import Any

import numpy as np

from evoserve.jit import part
from evoserve.model.cpu.simd import K_MULTIPLE, PANEL

Array = np.ndarray[Any, Any]

LINEAR = np.dtype(
    [
        ("kind", np.int64),  # of the weights: FLOAT32, BFLOAT16, FLOAT16, INT8
        ("weight", np.int64),  # (num_panels, num_in, 16); int8: (num_panels, num_in / 2, 16, 2)
        ("bias", np.int64),  # float32 (num_panels * 16,)
        ("scales", np.int64),  # float32 (num_panels * 16,), int8 only
        ("largest", np.int64),  # of the integers that the inputs become, int8 only
        ("num_in", np.int64),  # padded
        ("num_panels", np.int64),
    ]
)
STEP = np.dtype(
    [
        ("input_norm", np.int64),
        ("post_norm", np.int64),
        ("qk_norm", np.int64),  # float32 (num_heads + num_kv_heads, head_dim), 0 for none
        ("qkv", LINEAR),
        ("out", LINEAR),
        ("gate_up", LINEAR),
        ("down", LINEAR),
        ("rope", np.int64),
        ("window", np.int64),  # tokens that attention sees, at least 1
        ("scale", np.float64),  # of the step's input
        ("eps", np.float64),
    ]
)
MODEL = np.dtype(
    [
        ("num_steps", np.int64),
        ("hidden", np.int64),
        ("intermediate", np.int64),
        ("num_heads", np.int64),
        ("num_kv_heads", np.int64),
        ("head_dim", np.int64),
        ("scales_hidden_state", np.int64),  # 0: the scale is of the MLP's output alone
        ("embedding", LINEAR),  # looked up, not multiplied by
        ("norm", np.int64),
        ("norm_eps", np.float64),
        ("head", LINEAR),
    ]
)
BATCH = np.dtype(
    [
        ("num_tokens", np.int64),
        ("num_rows", np.int64),  # logits wanted
        ("num_tiles", np.int64),
        ("token_ids", np.int64),  # int64 (num_tokens,)
        ("positions", np.int64),  # int64 (num_tokens,)
        ("slots", np.int64),  # int64 (num_tokens,)
        ("logit_rows", np.int64),  # int64 (num_rows,), ascending
        ("tiles", np.int64),  # int64 (num_tiles, 3): sequence, first token of the batch, tokens
        ("tables", np.int64),  # int64 (num_seqs, table_width)
        ("table_width", np.int64),
        ("cache", np.int64),  # the KV cache's first byte
        ("step_bytes", np.int64),  # of one step's part of it
        ("block_size", np.int64),
        ("cosines", np.int64),  # int64 (num_ropes,): addresses of float32 (positions, head_dim)
        ("sines", np.int64),
    ]
)
SCRATCH = np.dtype(
    [
        ("residual", np.int64),  # (num_tokens, wide(hidden))
        ("normed", np.int64),  # (num_tokens, wide(hidden))
        ("branch", np.int64),  # (num_tokens, wide(hidden)): what a half of the layer adds
        ("qkv", np.int64),  # (num_tokens, wide of its rows)
        ("attended", np.int64),  # (num_tokens, wide(num_heads * head_dim))
        ("gate_up", np.int64),  # (num_tokens, wide(2 * intermediate))
        ("activated", np.int64),  # (num_tokens, wide(intermediate))
        ("quantized", np.int64),  # int16 (num_tokens, the widest of the inputs above)
        ("row_scales", np.int64),  # (num_tokens,)
        ("logits", np.int64),  # (num_rows, wide(vocab_size))
        ("max_tile_rows", np.int64),
        ("scores", np.int64),  # (num_threads, max_tile_rows, score_width)
        ("score_width", np.int64),
        (
            "tile_rows",
            np.int64,
        ),  # (num_threads, 2, max_tile_rows, wide(head_dim)): queries, outputs
        ("zeros", np.int64),  # 16 of them
    ]
)
TEAM = np.dtype(
    [
        ("num_threads", np.int64),
        ("phases", np.int64),  # address of the phases' cells, see `atomic.first_piece`
        ("steps", np.int64),  # address of STEP (num_steps,)
    ]
)
KERNELS = np.dtype(
    [("multiply_dense", np.int64), ("multiply_int8", np.int64), ("accumulate", np.int64)]
)
"""Addresses of what `native` compiled apart from everything that calls it."""
JOB = np.dtype(
    [("kernels", KERNELS), ("model", MODEL), ("batch", BATCH), ("scratch", SCRATCH), ("team", TEAM)]
)
TILE_ROWS = 12
"""Rows (token by query head) that attend together to the keys of one KV head, if one token has
no more of them."""


@part
def padded_in(num_in: int) -> int:
    """Columns of a product's input."""
    return -(-num_in // K_MULTIPLE) * K_MULTIPLE


@part
def wide(num_columns: int) -> int:
    """Columns of a buffer's row, whole panels."""
    return -(-num_columns // PANEL) * PANEL


@part
def kv_head_bytes(head_dim: int, block_size: int) -> int:
    """Of the keys and values that one block holds of one KV head.

    Keys are panels of 16 tokens, (panels, padded_in(head_dim), 16); values follow, a row of
    wide(head_dim) for each token; float32.
    """
    return 4 * (wide(block_size) * padded_in(head_dim) + block_size * wide(head_dim))
