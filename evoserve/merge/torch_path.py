"""The plain torch path: the reference that the fused CPU path equals bit for bit.

It also serves other devices than the CPU, and methods that need whole rows.
"""

from collections.abc import Sequence

import numpy as np
import torch

from evoserve.merge.combination import (
    EVERYTHING,
    NOTHING,
    Coefficient,
    Combination,
    Cutoff,
    DeltaSum,
    Keep,
    KeepMagnitude,
    KeepRandom,
    KeepRanked,
    Linear,
    Split,
    Term,
)
from evoserve.merge.masks import DENSITY_ONE, keep_mask

CHUNK = 1 << 16
"""Elements that are summed, and handed to a thread, together."""
LANES = 256
"""Interleaved running sums within a chunk."""
_MAGNITUDE = 0x7FFFFFFF


class TorchStatistics:
    """`Statistics` of the CPU tensors `inputs`, all of one shape."""

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        self._inputs = inputs

    @property
    def num_elements(self) -> int:
        """Elements of the tensor."""
        return self._inputs[0].numel()

    def gram(self, *, rebased: bool, axis: int | None = None) -> torch.Tensor:
        """See `Statistics.gram`."""
        vectors = [x.to(torch.float32) for x in self._inputs]
        if rebased:
            vectors = [x - vectors[0] for x in vectors]
        rows = [[_inner(a, b, axis) for b in vectors] for a in vectors]
        return torch.stack([torch.stack(row) for row in rows])

    def cutoffs(self, index: int, counts: Sequence[int]) -> tuple[Cutoff, ...]:
        """See `Statistics.cutoffs`; by a stable sort."""
        bits = _magnitude_bits(_delta(self._inputs, index)).reshape(-1)
        ordered, order = torch.sort(bits, descending=True, stable=True)
        return tuple(
            trivial_cutoff(count, len(bits))
            or Cutoff(int(ordered[count - 1]), int(order[count - 1]))
            for count in counts
        )

    def l1(self, index: int, keep: Keep) -> tuple[float, float]:
        """See `Statistics.l1`."""
        delta = _delta(self._inputs, index)
        kept = apply_keep(delta, keep, 0)
        return ordered_sum(delta.abs().double()), ordered_sum(kept.abs().double())


def trivial_cutoff(count: int, num_elements: int) -> Cutoff | None:
    """The cutoff of nothing or of everything."""
    if count <= 0:
        return NOTHING
    return EVERYTHING if count >= num_elements else None


def ordered_sum(values: torch.Tensor) -> float:
    """Sum of float64 `values` in the order that docs/merging.md fixes.

    Element i of a chunk goes to lane i mod 256; a lane's elements, then the lanes of a chunk, then
    the chunks are added one after the other.
    """
    flat = values.reshape(-1)
    if not len(flat):
        return 0.0
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % CHUNK))
    lanes = padded.reshape(-1, CHUNK // LANES, LANES).cumsum(1)[:, -1]
    return float(lanes.cumsum(1)[:, -1].cumsum(0)[-1])


def is_finite(values: torch.Tensor) -> bool:
    """No NaN, no infinity. Both survive a sum; a sum that overflows needs a second look."""
    total = values.sum(dtype=torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(values).all())


def needs_whole_tensor(combination: Combination) -> bool:
    """Does an element depend on its whole row, so that the tensor cannot be cut into chunks?"""
    if isinstance(combination, Split):
        return needs_whole_tensor(combination.before) or needs_whole_tensor(combination.after)
    if isinstance(combination, Linear):
        return any(isinstance(c, torch.Tensor) for c in combination.coefficients)
    return any(
        isinstance(term.keep, KeepRanked) or isinstance(term.coefficient, torch.Tensor)
        for term in combination.terms
    )


def combine(combination: Combination, inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
    """float32 result for `inputs`, which begin at flat index `start` of their tensors.

    The inputs are flat, unless the combination needs the whole tensor.
    """
    if isinstance(combination, Split):
        at = min(max(combination.at - start, 0), inputs[0].numel())
        flat = [x.reshape(-1) for x in inputs]
        before = combine(combination.before, [x[:at] for x in flat], start)
        after = combine(combination.after, [x[at:] for x in flat], start + at)
        return torch.cat([before, after]).reshape(inputs[0].shape)
    if isinstance(combination, Linear):
        return _linear(combination, inputs)
    return _delta_sum(combination, inputs, start)


def apply_keep(delta: torch.Tensor, keep: Keep, start: int) -> torch.Tensor:
    """The delta with what is dropped set to +0.0."""
    if isinstance(keep, KeepRandom):
        mask = keep_mask(keep.key, keep.threshold, start, delta.shape, delta.device)
        return torch.where(mask, delta, 0.0)
    if isinstance(keep, KeepMagnitude):
        bits = _magnitude_bits(delta)
        index = torch.arange(start, start + delta.numel(), device=delta.device)
        index = index.reshape(delta.shape)
        inside = _is_inside(keep.bottom, bits, index) & ~_is_inside(keep.top, bits, index)
        return torch.where(inside, delta, 0.0)
    if isinstance(keep, KeepRanked):
        odds = _ranked_odds(delta, keep)
        mask = keep_mask(
            keep.key, (odds * DENSITY_ONE).round().long(), start, delta.shape, delta.device
        )
        return torch.where(mask, delta / odds.to(torch.float32) if keep.inverse else delta, 0.0)
    return delta


def _linear(combination: Linear, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    result: torch.Tensor | None = None
    for coefficient, tensor in zip(combination.coefficients, inputs, strict=True):
        factor = _scalar(coefficient)
        if factor.ndim == 0 and factor == 0:
            continue
        scaled = tensor.to(torch.float32) * factor
        result = scaled if result is None else result + scaled
    return torch.zeros_like(inputs[0], dtype=torch.float32) if result is None else result


def _delta_sum(combination: DeltaSum, inputs: Sequence[torch.Tensor], start: int) -> torch.Tensor:
    base = inputs[0].to(torch.float32)
    deltas = [_weighted_delta(term, inputs, base, start) for term in combination.terms]
    total = torch.zeros_like(base)
    for delta in deltas:
        total = total + delta
    if not combination.elect:
        return base + total * _scalar(combination.scale)
    positive = total >= 0
    mixed, divisor = torch.zeros_like(base), torch.zeros_like(base)
    for term, delta in zip(combination.terms, deltas, strict=True):
        # NaN makes the total NaN and counts as negative, so that it is not dropped unseen.
        agrees = torch.where(positive, delta > 0, ~(delta >= 0))
        mixed = mixed + torch.where(agrees, delta, 0.0)
        divisor = divisor + torch.where(agrees, _scalar(term.weight), 0.0)
    if combination.normalize:
        mixed = mixed / torch.where(divisor == 0, 1.0, divisor)
    return base + mixed * _scalar(combination.scale)


def _weighted_delta(
    term: Term, inputs: Sequence[torch.Tensor], base: torch.Tensor, start: int
) -> torch.Tensor:
    delta = inputs[term.input].to(torch.float32) - base
    return apply_keep(delta, term.keep, start) * _scalar(term.coefficient)


def _scalar(value: Coefficient) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float32)


def _delta(inputs: Sequence[torch.Tensor], index: int) -> torch.Tensor:
    return inputs[index].to(torch.float32) - inputs[0].to(torch.float32)


def _inner(a: torch.Tensor, b: torch.Tensor, axis: int | None) -> torch.Tensor:
    products = a.double() * b.double()
    if axis is None:
        return torch.tensor(ordered_sum(products), dtype=torch.float64)
    # numpy adds in one order whatever the number of threads; torch does not.
    return torch.from_numpy(np.add.reduce(products.numpy(), axis=axis, keepdims=True))


def _magnitude_bits(delta: torch.Tensor) -> torch.Tensor:
    return delta.contiguous().view(torch.int32) & _MAGNITUDE


def _is_inside(cutoff: Cutoff, bits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return (bits > cutoff.bits) | ((bits == cutoff.bits) & (index <= cutoff.index))


def _ranked_odds(delta: torch.Tensor, keep: KeepRanked) -> torch.Tensor:
    """float64 keep probability by rank of magnitude within each row (the last axis)."""
    bits = _magnitude_bits(delta)
    order = torch.argsort(bits, dim=-1, descending=True, stable=True)
    place = torch.arange(delta.shape[-1] - 1, -1, -1, device=delta.device).expand(delta.shape)
    ranks = torch.empty_like(order).scatter_(-1, order, place.contiguous())
    if delta.shape[-1] <= 1:
        return torch.full_like(delta, (keep.low + keep.high) / 2, dtype=torch.float64)
    share = ranks.double() / (delta.shape[-1] - 1)
    return keep.low + share * (keep.high - keep.low)
