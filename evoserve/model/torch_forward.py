"""The path in plain torch, on any device, in any dtype: what faster paths are checked against."""

import torch

from evoserve.model.attention import AttentionBackend
from evoserve.model.batch import ForwardBatch
from evoserve.model.kv_cache import KVCache, SlotCache
from evoserve.model.layer import StepContext, attention_branch, mlp_branch, rms_norm
from evoserve.model.parts import PathParts


class TorchForward:
    """A `PathForward` of torch operations, with SDPA through an attention backend."""

    def __init__(self, parts: PathParts, backend: AttentionBackend) -> None:
        """Holds the parts, copies nothing."""
        self._steps = parts.steps
        self._ends = parts.ends
        self._ropes = parts.ropes
        self._target = parts.target
        self._backend = backend
        self._dtype = parts.ends.norm.dtype

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes over all path steps."""
        layer = self._steps[0].layer
        per_token = 2 * layer.num_kv_heads * layer.head_dim * self._dtype.itemsize
        return len(self._steps) * block_size * per_token

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """An uninitialised `SlotCache`."""
        layer = self._steps[0].layer
        shape = (len(self._steps), num_blocks * block_size, 2, layer.num_kv_heads, layer.head_dim)
        data = torch.empty(shape, dtype=self._dtype, device=self._ends.norm.device)
        return SlotCache(data, block_size)

    @torch.inference_mode()
    def __call__(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache."""
        if not isinstance(kv_cache, SlotCache):
            raise TypeError("this model's KV cache is a SlotCache")
        contexts = self._prepare(batch, kv_cache)
        first, last = self._steps[0], len(self._steps) - 1
        hidden = self._ends.embed(batch.token_ids)
        if first.scale != 1.0:
            hidden = hidden * first.scale
        for index, (step, context) in enumerate(zip(self._steps, contexts, strict=True)):
            attended = attention_branch(step.layer, hidden, step.eps, context)
            hidden = hidden.add_(attended)
            if index == last:
                hidden = hidden.index_select(0, batch.logit_rows)
            branch = mlp_branch(step.layer, hidden, step.eps)
            scale = 1.0 if index == last else self._steps[index + 1].scale
            hidden = self._join(hidden, branch, scale)
        normed = rms_norm(hidden, self._ends.norm, self._ends.norm_eps)
        return self._ends.head(normed).float()

    def _join(self, residual: torch.Tensor, branch: torch.Tensor, scale: float) -> torch.Tensor:
        """What the next hop reads; writes into `residual`."""
        if self._target == "mlp_output":
            return residual.add_(branch, alpha=scale)
        joined = residual.add_(branch)
        return joined if scale == 1.0 else joined.mul_(scale)

    def _prepare(self, batch: ForwardBatch, kv_cache: SlotCache) -> list[StepContext]:
        """Rotations and attention plans: made once per kind, not per step."""
        longest = max(batch.context_lens)
        rotations = [rope.cos_sin(batch.positions, self._dtype) for rope in self._ropes]
        windows = [_effective(step.window, longest) for step in self._steps]
        plans = {
            window: self._backend.plan(batch, kv_cache.block_size, window)
            for window in dict.fromkeys(windows)
        }
        return [
            StepContext(*rotations[step.rope], batch.slot_mapping, plans[window], cached)
            for step, window, cached in zip(self._steps, windows, kv_cache.data, strict=True)
        ]


def _effective(window: int | None, longest_context: int) -> int | None:
    """A window that no sequence of the batch outgrows is none."""
    return None if window is None or window >= longest_context else window
