"""The paged KV cache: one slot per token and path step, so a repeated layer has several."""

from dataclasses import dataclass
from typing import Protocol

import torch


class KVCache(Protocol):
    """What everybody may know of a cache; its layout is between it and what fills it."""

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        ...

    @property
    def num_blocks(self) -> int:
        """Blocks of `block_size` tokens."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes over all path steps."""
        ...


@dataclass(frozen=True, eq=False)
class SlotCache:
    """data: (num_steps, num_blocks * block_size, 2, num_kv_heads, head_dim), uninitialised.

    Keys and values of a token lie side by side, so that one copy writes both and one gather
    reads both. Slots that no token was written to are never read.
    """

    data: torch.Tensor
    block_size: int

    @property
    def num_blocks(self) -> int:
        """Blocks of `block_size` tokens."""
        return self.data.shape[1] // self.block_size

    @property
    def num_bytes(self) -> int:
        """Bytes over all path steps."""
        return self.data.nbytes

    def slots(self, step: int) -> torch.Tensor:
        """What path step `step` holds: (num_slots, 2, num_kv_heads, head_dim), a view."""
        return self.data[step]

    def keys(self, step: int) -> torch.Tensor:
        """(num_blocks, block_size, num_kv_heads, head_dim), a view."""
        return self.data[step, :, 0].view(self.num_blocks, self.block_size, *self.data.shape[3:])

    def values(self, step: int) -> torch.Tensor:
        """(num_blocks, block_size, num_kv_heads, head_dim), a view."""
        return self.data[step, :, 1].view(self.num_blocks, self.block_size, *self.data.shape[3:])
