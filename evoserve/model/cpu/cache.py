"""The KV cache of the compiled path: keys in panels of 16 tokens, values in rows."""

from dataclasses import dataclass

import numpy as np
import torch

from evoserve.model.cpu.records import kv_head_bytes
from evoserve.model.heap import prefer_huge_pages


@dataclass(frozen=True, eq=False)
class PanelCache:
    """data: float32 (num_steps, num_blocks, num_kv_heads, one head's block), see `kv_head_bytes`.

    Slots that no token was written to are never read.
    """

    data: torch.Tensor
    block_size: int

    @property
    def num_blocks(self) -> int:
        """Blocks of `block_size` tokens."""
        return self.data.shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes over all path steps."""
        return self.data.nbytes

    @property
    def step_bytes(self) -> int:
        """Of one path step."""
        return self.data[0].nbytes


def new_panel_cache(
    num_steps: int, num_blocks: int, num_kv_heads: int, head_dim: int, block_size: int
) -> PanelCache:
    """One allocation, of which the operating system gives what is written to."""
    width = kv_head_bytes(head_dim, block_size) // np.dtype(np.float32).itemsize
    data = torch.empty(num_steps, num_blocks, num_kv_heads, width)
    prefer_huge_pages(data)
    return PanelCache(data, block_size)
