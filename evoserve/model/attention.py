"""Attention over the paged KV cache: a backend plans a batch once, then attends at every step."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

from evoserve.model.batch import ForwardBatch

_SMALLEST_GROUP = 8


class AttentionPlan(Protocol):
    """What is the same for all path steps of one window in one batch."""

    def attend(self, query: torch.Tensor, new: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
        """Attention output (num_tokens, num_heads * head_dim).

        query: (num_tokens, num_heads, head_dim); new: keys and values of the batch's tokens,
        (num_tokens, 2, num_kv_heads, head_dim); cached: a step's slots, already holding `new`.
        """
        ...


class AttentionBackend(Protocol):
    """Makes plans; one per device kind."""

    def plan(self, batch: ForwardBatch, block_size: int, window: int | None) -> AttentionPlan:
        """A plan for `batch` where a token sees the last `window` tokens (None: all)."""
        ...


class TorchAttention:
    """SDPA over gathered slots: decodes in batches of similar length, prefills one by one."""

    def plan(self, batch: ForwardBatch, block_size: int, window: int | None) -> AttentionPlan:
        """A plan for `batch` where a token sees the last `window` tokens (None: all)."""
        paging = _Paging(batch.block_tables, block_size, window)
        spans = []
        row = batch.num_decodes
        for seq in range(batch.num_decodes, len(batch.query_lens)):
            query_len = batch.query_lens[seq]
            spans.append(_plan_span(paging, row, seq, query_len, batch.context_lens[seq]))
            row += query_len
        decodes = _plan_decodes(paging, batch.context_lens[: batch.num_decodes])
        return _TorchPlan(tuple(decodes), tuple(spans))


@dataclass(frozen=True)
class _Paging:
    block_tables: torch.Tensor
    block_size: int
    window: int | None

    def first_visible(self, position: int) -> int:
        return 0 if self.window is None else max(0, position - self.window + 1)

    def to_slots(self, sequences: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Slots of `positions` (num, length) of each of `sequences` (num,)."""
        blocks = self.block_tables[sequences].gather(1, positions // self.block_size)
        return blocks * self.block_size + positions % self.block_size


@dataclass(frozen=True)
class _DecodeGroup:
    """rows: (num,) tokens of the batch; slots: (num * length,); mask: (num, 1, 1, length)."""

    rows: torch.Tensor
    slots: torch.Tensor
    mask: torch.Tensor | None


@dataclass(frozen=True)
class _PrefillSpan:
    """Rows start..stop of one sequence. slots None: nothing is cached, the new tokens are all.

    mask: bool (query_len, length), None for plain causal.
    """

    start: int
    stop: int
    slots: torch.Tensor | None
    mask: torch.Tensor | None


@dataclass(frozen=True)
class _TorchPlan:
    decodes: tuple[_DecodeGroup, ...]
    spans: tuple[_PrefillSpan, ...]

    def attend(self, query: torch.Tensor, new: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
        """See AttentionPlan."""
        out = query.new_empty(query.shape[0], query.shape[1] * query.shape[2])
        num_decodes = sum(group.rows.shape[0] for group in self.decodes)
        if len(self.decodes) == 1:
            out[:num_decodes] = _decode(query[:num_decodes], cached, self.decodes[0])
        else:
            for group in self.decodes:
                out[group.rows] = _decode(query[group.rows], cached, group)
        for span in self.spans:
            rows = slice(span.start, span.stop)
            context = new[rows] if span.slots is None else cached.index_select(0, span.slots)
            out[rows] = _prefill(query[rows], context, span.mask)
        return out


def _decode(query: torch.Tensor, cached: torch.Tensor, group: _DecodeGroup) -> torch.Tensor:
    """The heads that share a KV head are its queries, so no KV head is ever repeated."""
    num, heads, head_dim = query.shape
    context = cached.index_select(0, group.slots).view(num, -1, *cached.shape[1:])
    keys, values = context.permute(2, 0, 3, 1, 4)
    grouped = query.view(num, keys.shape[1], heads // keys.shape[1], head_dim)
    out = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=group.mask)
    return out.reshape(num, heads * head_dim)


def _prefill(query: torch.Tensor, context: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    keys, values = context.permute(1, 2, 0, 3)[:, None]
    out = functional.scaled_dot_product_attention(
        query.transpose(0, 1)[None],
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=query.shape[1] != context.shape[2],
    )
    return out[0].transpose(0, 1).reshape(query.shape[0], -1)


def _plan_decodes(paging: _Paging, context_lens: tuple[int, ...]) -> list[_DecodeGroup]:
    """Group decodes whose context lengths round up to the same power of two."""
    groups: dict[int, list[int]] = {}
    for row, context in enumerate(context_lens):
        visible = context - paging.first_visible(context - 1)
        groups.setdefault(max(_SMALLEST_GROUP, (visible - 1).bit_length()), []).append(row)
    return [_plan_group(paging, rows, context_lens) for _, rows in sorted(groups.items())]


def _plan_group(paging: _Paging, rows: list[int], context_lens: tuple[int, ...]) -> _DecodeGroup:
    """A padded entry repeats the sequence's last token, masked: it never reads foreign slots."""
    device = paging.block_tables.device
    firsts = [paging.first_visible(context_lens[row] - 1) for row in rows]
    lasts = [context_lens[row] - 1 for row in rows]
    length = max(last - first + 1 for first, last in zip(firsts, lasts, strict=True))
    first, last = torch.tensor([firsts, lasts], device=device)[:, :, None]
    positions = first + torch.arange(length, device=device)
    row_ids = torch.tensor(rows, device=device)
    slots = paging.to_slots(row_ids, torch.minimum(positions, last)).flatten()
    is_padded = any(b - a + 1 != length for a, b in zip(firsts, lasts, strict=True))
    mask = (positions <= last)[:, None, None] if is_padded else None
    return _DecodeGroup(row_ids, slots, mask)


def _plan_span(
    paging: _Paging, row: int, seq: int, query_len: int, context_len: int
) -> _PrefillSpan:
    device = paging.block_tables.device
    cached = context_len - query_len
    first = paging.first_visible(cached)
    is_windowed = paging.first_visible(context_len - 1) > first
    positions = torch.arange(first, context_len, device=device)
    slots = None
    if cached:
        slots = paging.to_slots(torch.tensor([seq], device=device), positions[None])[0]
    elif not is_windowed:
        return _PrefillSpan(row, row + query_len, None, None)
    queries = torch.arange(cached, context_len, device=device)[:, None]
    mask = positions <= queries
    if paging.window is not None and is_windowed:
        mask &= positions > queries - paging.window
    return _PrefillSpan(row, row + query_len, slots, mask)
