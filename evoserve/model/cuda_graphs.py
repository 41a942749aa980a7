"""Decodes as CUDA graphs: padded to a few fixed shapes, captured at first use, then replayed.

Launching a decode's many small kernels one by one costs a GPU more than running them. A graph has
fixed shapes and addresses, so a batch of decodes is filled up to the next bucket of batch size and
context length and copied into the bucket's own buffers. All that is not the capture itself is
tested on a CPU with `EagerRecorder`; the capture was never run: no GPU was at hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from evoserve.model.attention import AttentionBackend, AttentionPlan
from evoserve.model.batch import ForwardBatch
from evoserve.model.kv_cache import KVCache, SlotCache
from evoserve.model.parts import PathParts
from evoserve.model.torch_forward import TorchForward

LARGEST_BATCH = 256
"""Larger batches run eagerly: they keep a GPU busy without graphs."""
_SMALLEST_CONTEXT = 64

Replay = Callable[[], torch.Tensor]


class Recorder(Protocol):
    """Turns a run over fixed buffers into something that can be run again."""

    def record(self, run: Replay) -> Replay:
        """Calling the result does what `run` does, and returns the same output tensor each time."""
        ...


class CudaRecorder:
    """Captures CUDA graphs, which share one memory pool."""

    def __init__(self) -> None:
        """Needs a GPU."""
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, run: Replay) -> Replay:
        """Run once on a side stream, so that libraries set themselves up, then capture.

        Only this thread's calls count as captured: recipes are built in another thread meanwhile.
        """
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = run()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay


class EagerRecorder:
    """Runs again what it is given: the same buffers and shapes, no graph."""

    def record(self, run: Replay) -> Replay:
        """`run` itself."""
        return run


class GraphedForward:
    """A `PathForward` that replays decodes and runs all other batches by `eager`.

    Graphs belong to one KV cache; a forward with another one begins anew.
    """

    def __init__(self, parts: PathParts, backend: AttentionBackend, recorder: Recorder) -> None:
        """`backend` attends in batches that are not replayed."""
        self._eager = TorchForward(parts, backend)
        self._static = TorchForward(parts, StaticDecodeAttention())
        self._recorder = recorder
        self._kv_cache: KVCache | None = None
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes over all path steps."""
        return self._eager.kv_bytes_per_block(block_size)

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """With one block more than the `num_blocks` that sequences use: padding writes there."""
        return self._eager.new_kv_cache(num_blocks + 1, block_size)

    @torch.inference_mode()
    def __call__(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache.

        kv_cache: from `new_kv_cache`.
        """
        if not isinstance(kv_cache, SlotCache):
            raise TypeError("this model's KV cache is a SlotCache")
        if not is_replayable(batch):
            return self._eager(batch, kv_cache)
        if kv_cache is not self._kv_cache:
            self._graphs.clear()
            self._kv_cache = kv_cache
        bucket = find_bucket(batch.context_lens)
        graph = self._graphs.get(bucket)
        if graph is None:
            buffers = new_buffers(bucket, kv_cache)
            fill_buffers(buffers, batch, kv_cache)
            run = _bind(self._static, buffers, kv_cache)
            graph = self._graphs[bucket] = _Graph(buffers, self._recorder.record(run))
        else:
            fill_buffers(graph.buffers, batch, kv_cache)
        return graph.replay()[: batch.num_tokens].clone()


class StaticDecodeAttention:
    """An `AttentionBackend` for padded decodes: shapes from the bucket, lengths read on the device.

    A batch's context_lens are the bucket's length for every row; the true length of a row is its
    position + 1.
    """

    def plan(self, batch: ForwardBatch, block_size: int, window: int | None) -> AttentionPlan:
        """A plan for `batch` where a token sees the last `window` tokens (None: all)."""
        last = batch.positions[:, None]
        at = torch.arange(max(batch.context_lens), device=last.device)[None]
        visible = at <= last
        if window is not None:
            visible &= at > last - window
        # An invisible entry repeats the row's own token: slots that nobody wrote may hold NaN.
        places = torch.where(visible, at, last)
        blocks = batch.block_tables.gather(1, places // block_size)
        slots = blocks * block_size + places % block_size
        return _StaticPlan(slots.flatten(), visible[:, None, None])


def is_replayable(batch: ForwardBatch) -> bool:
    """Decodes only, not too many, all of whose logits are wanted."""
    num_seqs = len(batch.query_lens)
    is_decode = batch.num_decodes == num_seqs == batch.num_tokens
    return is_decode and num_seqs <= LARGEST_BATCH and batch.logit_rows.shape[0] == num_seqs


def find_bucket(context_lens: Sequence[int]) -> tuple[int, int]:
    """(rows, tokens of context) of the smallest bucket that holds a batch: powers of two."""
    return _power_of_two(len(context_lens)), _power_of_two(max(*context_lens, _SMALLEST_CONTEXT))


def new_buffers(bucket: tuple[int, int], kv_cache: SlotCache) -> ForwardBatch:
    """A decode batch of the bucket's shape; `fill_buffers` gives it its values."""
    num_rows, length = bucket
    width = -(-length // kv_cache.block_size)
    rows = torch.arange(num_rows, device=kv_cache.data.device)
    return ForwardBatch(
        token_ids=torch.zeros_like(rows),
        positions=torch.zeros_like(rows),
        slot_mapping=torch.zeros_like(rows),
        query_lens=(1,) * num_rows,
        context_lens=(length,) * num_rows,
        block_tables=rows.new_zeros(num_rows, width),
        logit_rows=rows,
        num_decodes=num_rows,
    )


def fill_buffers(buffers: ForwardBatch, batch: ForwardBatch, kv_cache: SlotCache) -> None:
    """Copy the batch in; the other rows become token 0 at position 0 of the cache's last block."""
    spare = kv_cache.num_blocks - 1
    num = batch.num_tokens
    width = min(batch.block_tables.shape[1], buffers.block_tables.shape[1])
    buffers.token_ids[num:] = 0
    buffers.positions[num:] = 0
    buffers.slot_mapping[num:] = spare * kv_cache.block_size
    buffers.block_tables[num:] = spare
    buffers.token_ids[:num] = batch.token_ids
    buffers.positions[:num] = batch.positions
    buffers.slot_mapping[:num] = batch.slot_mapping
    buffers.block_tables[:num, :width] = batch.block_tables[:, :width]


@dataclass(frozen=True, eq=False)
class _Graph:
    buffers: ForwardBatch
    replay: Replay


@dataclass(frozen=True, eq=False)
class _StaticPlan:
    """slots: (num_rows * length,); visible: bool (num_rows, 1, 1, length)."""

    slots: torch.Tensor
    visible: torch.Tensor

    def attend(self, query: torch.Tensor, new: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
        """See AttentionPlan; the heads that share a KV head are its queries."""
        num_rows, num_heads, head_dim = query.shape
        context = cached.index_select(0, self.slots).view(num_rows, -1, *cached.shape[1:])
        keys, values = context.permute(2, 0, 3, 1, 4)
        grouped = query.reshape(num_rows, new.shape[2], num_heads // new.shape[2], head_dim)
        out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=self.visible)
        return out.reshape(num_rows, num_heads * head_dim)


def _bind(forward: TorchForward, buffers: ForwardBatch, kv_cache: SlotCache) -> Replay:
    return lambda: forward(buffers, kv_cache)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()
