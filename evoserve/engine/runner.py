"""From chunks to logits: lays the tokens of a step out flat and runs the model on them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from evoserve.engine.sequence import Chunk
from evoserve.model.batch import ForwardBatch
from evoserve.model.kv_cache import KVCache


class LanguageModel(Protocol):
    """What the engine needs of a model; `evoserve.model.path_model.PathModel` is one."""

    @property
    def vocab_size(self) -> int:
        """Columns of the logits."""
        ...

    @property
    def device(self) -> torch.device:
        """Where batches must be."""
        ...

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache."""
        ...


class Runner:
    """A model and its KV cache; the only code that touches either."""

    def __init__(self, model: LanguageModel, kv_cache: KVCache) -> None:
        """`kv_cache` is the model's own and nobody else's."""
        self._model = model
        self._kv_cache = kv_cache

    def forward(self, chunks: Sequence[Chunk]) -> torch.Tensor:
        """float32 (sum of the chunks' num_logits, vocab_size); KV of all chunks is written."""
        batch = build_batch(chunks, self._kv_cache.block_size, self._model.device)
        with torch.inference_mode():
            return self._model.forward(batch, self._kv_cache)


def build_batch(chunks: Sequence[Chunk], block_size: int, device: torch.device) -> ForwardBatch:
    """The flat batch; chunks of one token must come first."""
    token_ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    rows: list[int] = []
    for chunk in chunks:
        span = range(chunk.start, chunk.stop)
        table = chunk.sequence.table.block_ids
        token_ids += chunk.sequence.token_ids[span.start : span.stop]
        positions += span
        slots += [table[at // block_size] * block_size + at % block_size for at in span]
        rows += range(len(token_ids) - chunk.num_logits, len(token_ids))
    flat = torch.from_numpy(np.array([token_ids, positions, slots], np.int64)).to(device)
    return ForwardBatch(
        token_ids=flat[0],
        positions=flat[1],
        slot_mapping=flat[2],
        query_lens=tuple(chunk.num_tokens for chunk in chunks),
        context_lens=tuple(chunk.stop for chunk in chunks),
        block_tables=_pad_tables(chunks).to(device),
        logit_rows=torch.tensor(rows, dtype=torch.int64).to(device),
        num_decodes=sum(chunk.num_tokens == 1 for chunk in chunks),
    )


def _pad_tables(chunks: Sequence[Chunk]) -> torch.Tensor:
    tables = [chunk.sequence.table.block_ids for chunk in chunks]
    width = max(map(len, tables))
    padded = [table + [0] * (width - len(table)) for table in tables]
    return torch.from_numpy(np.array(padded, np.int64))
