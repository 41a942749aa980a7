"""What one forward pass works on: tokens of several sequences, flattened."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ForwardBatch:
    """Tokens of `num_seqs` sequences one after the other; decodes (one token each) come first.

    token_ids, positions, slot_mapping: int64 (num_tokens,); a token's slot is
        block * block_size + offset in its sequence's KV blocks, the same for every path step.
    query_lens: tokens of each sequence in this pass; context_lens: tokens of each sequence in the
        KV cache once this pass is done (cached + query_lens).
    block_tables: int64 (num_seqs, max_blocks), rows padded with 0.
    logit_rows: int64 (num_rows,), the tokens whose logits are wanted.
    num_decodes: how many leading sequences have query_len 1.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    query_lens: tuple[int, ...]
    context_lens: tuple[int, ...]
    block_tables: torch.Tensor
    logit_rows: torch.Tensor
    num_decodes: int

    @property
    def num_tokens(self) -> int:
        """Tokens of this pass over all sequences."""
        return self.token_ids.shape[0]
