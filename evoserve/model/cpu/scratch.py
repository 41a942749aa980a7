"""Buffers of a forward pass, shared by all models of the same sizes that one team runs."""

from dataclasses import dataclass
from typing import Any

import torch

from evoserve.model.cpu.records import TILE_ROWS, wide


@dataclass(frozen=True)
class Sizes:
    """What the buffers' widths follow from."""

    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def tokens_per_tile(self) -> int:
        """Tokens that attend together."""
        return max(1, TILE_ROWS // self.group)

    @property
    def max_tile_rows(self) -> int:
        """Query heads that do so, over those tokens."""
        return self.tokens_per_tile * self.group


class Scratch:
    """float32 matrices of records.SCRATCH; they grow with what is asked for and never shrink."""

    def __init__(self, sizes: Sizes, num_threads: int) -> None:
        """Allocates next to nothing."""
        self._sizes = sizes
        self._num_threads = num_threads
        self._zeros = torch.zeros(16)
        self._tile_rows = torch.zeros(2 * num_threads * sizes.max_tile_rows * wide(sizes.head_dim))
        self._by_token: dict[str, torch.Tensor] = {}
        self._num_tokens = 0
        self._scores = torch.empty(0)
        self._score_width = 0

    def fill(self, record: Any, num_tokens: int, num_positions: int) -> None:
        """Write the addresses of buffers for so many tokens, and positions seen, into `record`.

        They are good until the next call.
        """
        if num_tokens > self._num_tokens:
            self._by_token = self._matrices(num_tokens)
            self._num_tokens = num_tokens
        rows = self._sizes.max_tile_rows
        if num_positions > self._score_width:
            self._score_width = wide(num_positions)
            self._scores = torch.empty(self._num_threads * rows * self._score_width)
        for name, matrix in self._by_token.items():
            record[name] = matrix.data_ptr()
        record["zeros"] = self._zeros.data_ptr()
        record["tile_rows"] = self._tile_rows.data_ptr()
        record["max_tile_rows"] = rows
        record["scores"] = self._scores.data_ptr()
        record["score_width"] = self._score_width

    def _matrices(self, num_tokens: int) -> dict[str, torch.Tensor]:
        """Zero, so that the padding of what is multiplied is."""
        sizes = self._sizes
        attended = sizes.num_heads * sizes.head_dim
        widths = {
            "residual": sizes.hidden,
            "normed": sizes.hidden,
            "branch": sizes.hidden,
            "qkv": attended + 2 * sizes.num_kv_heads * sizes.head_dim,
            "attended": attended,
            "gate_up": 2 * sizes.intermediate,
            "activated": sizes.intermediate,
        }
        matrices = {name: torch.zeros(num_tokens * wide(width)) for name, width in widths.items()}
        widest = wide(max(sizes.hidden, attended, sizes.intermediate))
        matrices["quantized"] = torch.zeros(num_tokens * widest, dtype=torch.int16)
        matrices["row_scales"] = torch.zeros(num_tokens)
        return matrices
