"""Drives the fused kernels: the same statistics and combinations as the torch path, on the CPU.

Importing this module imports numba; `evoserve.merge.build` does so only when it is there.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from evoserve.merge import jit
from evoserve.merge.combination import (
    Combination,
    Cutoff,
    Keep,
    KeepMagnitude,
    KeepRandom,
    KeepRanked,
    Linear,
    Split,
    Term,
)
from evoserve.merge.torch_path import CHUNK, TorchStatistics, is_finite, trivial_cutoff

Piece = Callable[[int, int], None]
Spans = Callable[[int, Piece], None]
"""Calls a piece with ranges that cover [0, n), in any order, each start a multiple of CHUNK."""
_DTYPES = (torch.float32, torch.bfloat16)
_INFINITY = 0x7F800000


class FusedStatistics:
    """`Statistics` of contiguous float32 or bfloat16 CPU tensors, by the fused kernels."""

    def __init__(self, inputs: Sequence[torch.Tensor], spans: Spans) -> None:
        self._inputs = inputs
        self._table = _input_table(inputs)
        self._spans = spans

    @property
    def num_elements(self) -> int:
        """Elements of the tensor."""
        return self._inputs[0].numel()

    def gram(self, *, rebased: bool, axis: int | None = None) -> torch.Tensor:
        """See `Statistics.gram`; sums along one axis alone are left to torch."""
        if axis is not None:
            return TorchStatistics(self._inputs).gram(rebased=rebased, axis=axis)
        num = len(self._inputs)
        partials = np.zeros((_num_chunks(self.num_elements), num, num))

        def piece(start: int, stop: int) -> None:
            jit.gram_chunks(self._table, rebased, start, stop, partials)

        self._spans(self.num_elements, piece)
        return torch.from_numpy(_sum_chunks(partials))

    def cutoffs(self, index: int, counts: Sequence[int]) -> tuple[Cutoff, ...]:
        """See `Statistics.cutoffs`; by two histograms of 16 bits each."""
        trivial = [trivial_cutoff(count, self.num_elements) for count in counts]
        if all(trivial):
            return tuple(cutoff for cutoff in trivial if cutoff is not None)
        upper = self._histogram(index, -1)
        return tuple(
            cutoff or self._cutoff(index, count, upper)
            for cutoff, count in zip(trivial, counts, strict=True)
        )

    def l1(self, index: int, keep: Keep) -> tuple[float, float]:
        """See `Statistics.l1`; what needs whole rows is left to torch."""
        if isinstance(keep, KeepRanked):
            return TorchStatistics(self._inputs).l1(index, keep)
        partials = np.zeros((_num_chunks(self.num_elements), 2))
        term = _term_table((Term(index, 1.0, keep),))

        def piece(start: int, stop: int) -> None:
            jit.l1_chunks(self._table, term, start, stop, partials)

        self._spans(self.num_elements, piece)
        before, after = _sum_chunks(partials).tolist()
        return before, after

    def _cutoff(self, index: int, count: int, upper: jit.Array) -> Cutoff:
        high, above = _bin_of(upper, count)
        lower = self._histogram(index, high)
        low, higher = _bin_of(lower, count - above)
        bits = (high << 16) | low
        missing = count - above - higher
        if missing == lower[low]:
            return Cutoff(bits, self.num_elements)
        return Cutoff(bits, self._place_of(index, bits, missing))

    def _histogram(self, index: int, prefix: int) -> jit.Array:
        parts: list[jit.Array] = []

        def piece(start: int, stop: int) -> None:
            counts = np.zeros(jit.NUM_BINS, np.int64)
            jit.count_magnitudes(self._table, index, prefix, start, stop, counts)
            parts.append(counts)

        self._spans(self.num_elements, piece)
        total: jit.Array = np.sum(parts, axis=0)
        return total

    def _place_of(self, index: int, bits: int, nth: int) -> int:
        """Flat index of the `nth` (from 1) element with these magnitude bits."""
        counts = np.zeros(_num_chunks(self.num_elements), np.int64)

        def piece(start: int, stop: int) -> None:
            jit.count_equal_chunks(self._table, index, bits, start, stop, counts)

        self._spans(self.num_elements, piece)
        chunk = int(np.searchsorted(np.cumsum(counts), nth))
        chunk_nth = nth - int(counts[:chunk].sum())
        span = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        base, other = (self._inputs[i].reshape(-1)[span].to(torch.float32) for i in (0, index))
        equal = ((other - base).view(torch.int32) & 0x7FFFFFFF) == bits
        return chunk * CHUNK + int(equal.nonzero()[chunk_nth - 1])


def combine_into(
    combination: Combination,
    inputs: Sequence[torch.Tensor],
    dtype: torch.dtype,
    out: torch.Tensor,
    spans: Spans,
) -> bool:
    """Write the combination, rounded to `dtype` and then to `out`'s dtype, into `out`.

    inputs: contiguous float32 or bfloat16 CPU tensors; out: contiguous, on the CPU.
    True if all that was written is finite.
    """
    table = _input_table(inputs)
    flat = out.view(-1)
    direct = out.dtype in _DTYPES and dtype in _DTYPES
    finite: list[bool] = []

    def piece(start: int, stop: int) -> None:
        if direct:
            job = _job(dtype, out)
            _run(combination, table, job, start, stop)
            finite.append(int(job["largest"][0]) < _INFINITY)
            return
        for at in range(start, stop, CHUNK):
            end = min(stop, at + CHUNK)
            scratch = torch.empty(end - at, dtype=torch.float32)
            job = _job(torch.float32, scratch)
            job["out"] -= 4 * at
            _run(combination, table, job, at, end)
            flat[at:end].copy_(scratch.to(dtype))
            finite.append(is_finite(flat[at:end]))

    spans(out.numel(), piece)
    return all(finite)


def _run(combination: Combination, table: jit.Array, job: jit.Array, start: int, stop: int) -> None:
    if start >= stop:
        return
    if isinstance(combination, Split):
        at = min(max(combination.at, start), stop)
        _run(combination.before, table, job, start, at)
        _run(combination.after, table, job, at, stop)
    elif isinstance(combination, Linear):
        jit.combine_linear(table, _linear_table(combination), job, start, stop)
    else:
        job["elect"], job["normalize"] = combination.elect, combination.normalize
        job["scale"] = combination.scale
        jit.combine_deltas(table, _term_table(combination.terms), job, start, stop)


def _input_table(inputs: Sequence[torch.Tensor]) -> jit.Array:
    rows = [(tensor.data_ptr(), tensor.dtype == torch.bfloat16) for tensor in inputs]
    return np.array(rows, dtype=jit.INPUT)


def _job(dtype: torch.dtype, out: torch.Tensor) -> jit.Array:
    table = np.zeros(1, dtype=jit.JOB)
    table["out"] = out.data_ptr()
    table["rounds_to_bfloat16"] = dtype == torch.bfloat16
    table["stores_bfloat16"] = out.dtype == torch.bfloat16
    return table


def _linear_table(combination: Linear) -> jit.Array:
    """The coefficients that are not zero, each with its input."""
    table = np.zeros(len(combination.coefficients), dtype=jit.TERM)
    table["input"] = np.arange(len(table))
    table["coefficient"] = combination.coefficients
    used: jit.Array = table[table["coefficient"] != 0]
    return used


def _term_table(terms: Sequence[Term]) -> jit.Array:
    table = np.zeros(len(terms), dtype=jit.TERM)
    for row, term in zip(table, terms, strict=True):
        row["input"], row["coefficient"], row["weight"] = (
            term.input,
            term.coefficient,
            term.weight,
        )
        if isinstance(term.keep, KeepRandom):
            row["kind"] = jit.KEEP_RANDOM
            row["key0"], row["key1"] = term.keep.key
            row["threshold"] = term.keep.threshold
        elif isinstance(term.keep, KeepMagnitude):
            row["kind"] = jit.KEEP_MAGNITUDE
            row["bottom_bits"], row["bottom_index"] = term.keep.bottom.bits, term.keep.bottom.index
            row["top_bits"], row["top_index"] = term.keep.top.bits, term.keep.top.index
    return table


def _bin_of(counts: jit.Array, nth: int) -> tuple[int, int]:
    """The bin that holds the `nth` largest element, and how many lie in higher bins."""
    from_top = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_top, nth))
    return len(counts) - 1 - place, int(from_top[place] - counts[len(counts) - 1 - place])


def _num_chunks(num_elements: int) -> int:
    return -(-num_elements // CHUNK)


def _sum_chunks(partials: jit.Array) -> jit.Array:
    """Added one after the other: numpy's cumsum never adds in pairs."""
    total: jit.Array = partials.sum(axis=0) if not len(partials) else partials.cumsum(axis=0)[-1]
    return total
