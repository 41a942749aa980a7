"""The decoder that follows a path: a built recipe, ready to be run."""

from typing import Protocol

import torch

from evoserve.model.batch import ForwardBatch
from evoserve.model.kv_cache import KVCache
from evoserve.model.parts import PathParts
from evoserve.model.store import Lease


class PathForward(Protocol):
    """Runs the parts it was made of on one kind of device, with a KV cache of its own layout.

    With branch_t the MLP output of hop t and h_t = r_t + branch_t its hidden state (h_-1 is the
    embedding), hop t reads
        mlp_output:   x_t = r_(t-1) + s_t * branch_(t-1),  x_0 = s_0 * embedding
        hidden_state: x_t = s_t * h_(t-1)
    and the final norm reads the last h unscaled.
    """

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes over all path steps."""
        ...

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """A cache in one allocation; slots that no token was written to are never read."""
        ...

    def __call__(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache."""
        ...


class PathModel:
    """Parts, what runs them, and the lease that keeps them in their store."""

    def __init__(self, parts: PathParts, forward: PathForward, lease: Lease) -> None:
        """`lease` holds the weights until `evoserve.model.build.release`."""
        self.architecture = parts.architecture
        self.max_model_len = parts.max_model_len
        self.lease = lease
        self._parts = parts
        self._forward = forward

    @property
    def num_steps(self) -> int:
        """Hops of the path; each has its own KV slots."""
        return len(self._parts.steps)

    @property
    def num_layers(self) -> int:
        """Distinct layers, repeats counted once."""
        return len({id(step.layer) for step in self._parts.steps})

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return self._parts.ends.head.num_out

    @property
    def device(self) -> torch.device:
        """Where weights and caches live."""
        return self._parts.ends.norm.device

    @property
    def dtype(self) -> torch.dtype:
        """Of activations and KV cache; weights may be stored in less."""
        return self._parts.ends.norm.dtype

    @property
    def scales(self) -> tuple[float, ...]:
        """The scale of each hop."""
        return tuple(step.scale for step in self._parts.steps)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in use, shared ones counted once."""
        return self.lease.num_bytes

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes over all path steps."""
        return self._forward.kv_bytes_per_block(block_size)

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """A cache that only this model can use."""
        return self._forward.new_kv_cache(num_blocks, block_size)

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache.

        Pure but for the KV cache.
        """
        return self._forward(batch, kv_cache)
