"""`PathForward` for the CPU: gathers what the kernels need to know of a batch, and runs them."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from evoserve.model.batch import ForwardBatch
from evoserve.model.cpu.cache import PanelCache, new_panel_cache
from evoserve.model.cpu.packed import PackedEmbedding, PackedLinear
from evoserve.model.cpu.records import JOB, STEP, Array, kv_head_bytes, wide
from evoserve.model.cpu.scratch import Sizes
from evoserve.model.cpu.team import Team
from evoserve.model.kv_cache import KVCache
from evoserve.model.linear import Embedding, Linear
from evoserve.model.parts import PathParts, PathStep
from evoserve.model.rope import Rope

_NO_WINDOW = 1 << 40
_FEWEST_ANGLES = 256


class CpuForward:
    """Runs float32 parts with packed weights, in one native call per batch."""

    def __init__(self, parts: PathParts, team: Team) -> None:
        """Holds the parts. Raises TypeError for weights that are not packed."""
        self._parts = parts  # the records are addresses into it
        self._team = team
        self._sizes = _sizes_of(parts)
        self._steps = np.array([_step_record(step) for step in parts.steps], STEP)
        self._job = np.zeros(1, JOB)
        _fill_model(self._job["model"][0], parts, self._sizes)
        self._angles = [_Angles(rope) for rope in parts.ropes]

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes over all path steps."""
        sizes = self._sizes
        return len(self._steps) * sizes.num_kv_heads * kv_head_bytes(sizes.head_dim, block_size)

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """A `PanelCache`."""
        sizes = self._sizes
        return new_panel_cache(
            len(self._steps), num_blocks, sizes.num_kv_heads, sizes.head_dim, block_size
        )

    def __call__(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache."""
        if not isinstance(kv_cache, PanelCache):
            raise TypeError("this model's KV cache is a PanelCache")
        rows = batch.logit_rows
        if not bool((rows[1:] > rows[:-1]).all()):
            ordered, places = np.unique(rows.numpy(), return_inverse=True)
            sorted_batch = replace(batch, logit_rows=torch.from_numpy(ordered))
            return self(sorted_batch, kv_cache)[torch.from_numpy(places)]
        longest = max(batch.context_lens)
        tiles = _tiles(batch, self._sizes.tokens_per_tile)
        angles = [each.addresses(longest) for each in self._angles]
        cosines, sines = np.array(angles, np.int64).T.copy()
        logits = torch.empty(len(rows), wide(self._sizes.vocab_size))
        with self._team.lock:
            job = self._job[0]
            _fill_batch(job["batch"], batch, kv_cache, tiles)
            job["batch"]["cosines"] = cosines.ctypes.data
            job["batch"]["sines"] = sines.ctypes.data
            scratch = self._team.scratch(self._sizes)
            scratch.fill(job["scratch"], batch.num_tokens, longest + kv_cache.block_size + 16)
            job["scratch"]["logits"] = logits.data_ptr()
            self._team.run(self._job, self._steps)
        return logits[:, : self._sizes.vocab_size]


class _Angles:
    """cos and sin of a rope for all positions so far, float32 (num_positions, head_dim)."""

    def __init__(self, rope: Rope) -> None:
        self._rope = rope
        self._num_positions = 0
        self._cos = self._sin = torch.empty(0)

    def addresses(self, num_positions: int) -> tuple[int, int]:
        """Of cos and sin, for at least so many positions."""
        if num_positions > self._num_positions:
            size = max(_FEWEST_ANGLES, 1 << (num_positions - 1).bit_length())
            cos, sin = self._rope.cos_sin(torch.arange(size), torch.float32)
            self._cos, self._sin = cos[:, 0].contiguous(), sin[:, 0].contiguous()
            self._num_positions = size
        return self._cos.data_ptr(), self._sin.data_ptr()


def _sizes_of(parts: PathParts) -> Sizes:
    layer, head = parts.steps[0].layer, _packed(parts.ends.head)
    down = _packed(layer.down)
    return Sizes(
        down.num_out, down.num_in, layer.num_heads, layer.num_kv_heads, layer.head_dim, head.num_out
    )


def _fill_model(record: Any, parts: PathParts, sizes: Sizes) -> None:
    for name in ("hidden", "intermediate", "num_heads", "num_kv_heads", "head_dim"):
        record[name] = getattr(sizes, name)
    record["num_steps"] = len(parts.steps)
    record["scales_hidden_state"] = parts.target == "hidden_state"
    record["embedding"] = _table(parts.ends.embed).record()[0]
    record["norm"] = parts.ends.norm.data_ptr()
    record["norm_eps"] = parts.ends.norm_eps
    record["head"] = _packed(parts.ends.head).record()[0]


def _step_record(step: PathStep) -> Any:
    layer = step.layer
    record = np.zeros((), STEP)
    record["input_norm"] = layer.input_norm.data_ptr()
    record["post_norm"] = layer.post_norm.data_ptr()
    record["qk_norm"] = 0 if layer.qk_norm is None else layer.qk_norm.data_ptr()
    for name in ("qkv", "out", "gate_up", "down"):
        record[name] = _packed(getattr(layer, name)).record()[0]
    record["rope"] = step.rope
    record["window"] = _NO_WINDOW if step.window is None else step.window
    record["scale"] = step.scale
    record["eps"] = step.eps
    return record


def _fill_batch(record: Any, batch: ForwardBatch, cache: PanelCache, tiles: Array) -> None:
    record["num_tokens"] = batch.num_tokens
    record["num_rows"] = len(batch.logit_rows)
    record["num_tiles"] = len(tiles)
    record["tiles"] = tiles.ctypes.data
    record["token_ids"] = batch.token_ids.data_ptr()
    record["positions"] = batch.positions.data_ptr()
    record["slots"] = batch.slot_mapping.data_ptr()
    record["logit_rows"] = batch.logit_rows.data_ptr()
    record["tables"] = batch.block_tables.data_ptr()
    record["table_width"] = batch.block_tables.shape[1]
    record["cache"] = cache.data.data_ptr()
    record["step_bytes"] = cache.step_bytes
    record["block_size"] = cache.block_size


def _tiles(batch: ForwardBatch, tokens_per_tile: int) -> Array:
    """int64 (num_tiles, 3): sequence, first token of the batch, number of tokens."""
    tiles = [(seq, seq, 1) for seq in range(batch.num_decodes)]
    first = batch.num_decodes
    for seq in range(batch.num_decodes, len(batch.query_lens)):
        stop = first + batch.query_lens[seq]
        tiles += [
            (seq, at, min(tokens_per_tile, stop - at)) for at in range(first, stop, tokens_per_tile)
        ]
        first = stop
    return np.array(tiles, np.int64)


def _packed(linear: Linear) -> PackedLinear:
    if not isinstance(linear, PackedLinear):
        raise TypeError(f"{type(linear).__name__} is not packed for the CPU's kernels")
    return linear


def _table(embedding: Embedding) -> PackedLinear:
    if not isinstance(embedding, PackedEmbedding):
        raise TypeError(f"{type(embedding).__name__} is not packed for the CPU's kernels")
    return embedding.table
