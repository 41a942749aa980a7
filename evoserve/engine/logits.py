"""What bias, min_tokens and penalties do to a row of logits."""

from collections import Counter
from collections.abc import Iterable

import torch

from evoserve.engine.sequence import Sequence


def is_adjusted(sequence: Sequence) -> bool:
    """Does the next token's row need `adjust_row`?"""
    params = sequence.params
    return (
        bool(params.logit_bias)
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or (bool(sequence.stop_ids) and sequence.num_generated_tokens < params.min_tokens)
    )


def adjust_row(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """A new row (vocab_size,): bias, then min_tokens, then penalties, in vLLM's order.

    Repetition is counted over prompt and generated tokens (arXiv 1909.05858: positive logits are
    divided, negative ones multiplied), presence and frequency over generated tokens.
    """
    params = sequence.params
    row = logits.clone()
    if params.logit_bias:
        biases = torch.tensor(list(params.logit_bias.values()), dtype=row.dtype)
        row[_ids(params.logit_bias, row)] += biases.to(row.device)
    if sequence.stop_ids and sequence.num_generated_tokens < params.min_tokens:
        row[_ids(sequence.stop_ids, row)] = -torch.inf
    if params.repetition_penalty != 1.0:
        seen = _ids(set(sequence.token_ids), row)
        values, factor = row[seen], params.repetition_penalty
        row[seen] = torch.where(values > 0, values / factor, values * factor)
    if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
        counts = Counter(sequence.token_ids[sequence.num_prompt_tokens :])
        if counts:
            number = torch.tensor(list(counts.values()), dtype=row.dtype).to(row.device)
            row[_ids(counts, row)] -= params.presence_penalty + params.frequency_penalty * number
    return row


def _ids(token_ids: Iterable[int], row: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(token_ids), dtype=torch.int64).to(row.device)
