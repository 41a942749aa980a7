"""What bias, min_tokens, penalties and a grammar do to a row of logits."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch

from evoserve.engine.sequence import Sequence
from evoserve.errors import RequestError


def is_adjusted(sequence: Sequence) -> bool:
    """Does the next token's row need `adjust_row`?"""
    params = sequence.params
    return (
        bool(params.logit_bias)
        or params.repetition_penalty != 1.0
        or params.presence_penalty != 0.0
        or params.frequency_penalty != 0.0
        or sequence.grammar is not None
        or (bool(sequence.stop_ids) and sequence.num_generated_tokens < params.min_tokens)
    )


def adjust_row(logits: torch.Tensor, sequence: Sequence) -> torch.Tensor:
    """A new row (vocab_size,): bias, min_tokens, penalties, in vLLM's order, then the grammar.

    Repetition is counted over prompt and generated tokens (arXiv 1909.05858: positive logits are
    divided, negative ones multiplied), presence and frequency over generated tokens. Raises
    EngineError or RequestError if the grammar cannot go on.
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
    if sequence.grammar is not None:
        _mask(row, sequence.grammar.allowed(sequence.token_ids), sequence.grammar.param)
    return row


def _mask(row: torch.Tensor, allowed: bytes, param: str) -> None:
    """Take from a row what is not allowed, by `TokenCursor.allowed`."""
    bits = np.unpackbits(np.frombuffer(allowed, dtype=np.uint8), bitorder="little")[: len(row)]
    is_out = np.ones(len(row), dtype=np.bool_)
    is_out[: len(bits)] = bits == 0
    row[torch.from_numpy(is_out).to(row.device)] = -torch.inf
    if row.max() == -torch.inf:
        message = f"Invalid '{param}': no token of the model can follow what it allows."
        raise RequestError(message, param=param, code="invalid_value")


def _ids(token_ids: Iterable[int], row: torch.Tensor) -> torch.Tensor:
    return torch.tensor(list(token_ids), dtype=torch.int64).to(row.device)
