"""Evaluates expressions straight into the runtime's buffers: the only part of merging with threads.

On the CPU the fused numba kernels run; without numba, on other devices, and for methods that need
whole rows (DELLA, row-wise options) the torch path does. Both give the same bits.
"""

import functools
import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import torch

from evoserve.merge.combination import Combination, Statistics
from evoserve.merge.expression import Expression, Leaf, Merge
from evoserve.merge.mapped import MappedPages
from evoserve.merge.methods import METHODS
from evoserve.merge.rows import fill_missing, pick_rows
from evoserve.merge.torch_path import (
    CHUNK,
    TorchStatistics,
    combine,
    is_finite,
    needs_whole_tensor,
)

_LARGE = 1 << 22
_PIECES_PER_THREAD = 4
_FUSED_DTYPES = (torch.float32, torch.bfloat16)

Piece = Callable[[int, int], None]
Spans = Callable[[int, Piece], None]


def evaluate(expression: Expression, out: torch.Tensor) -> bool:
    """Write the tensor into `out`, of the same number of elements; True if all of it is finite.

    out: contiguous (a row slice of a fused weight will do), float32, bfloat16 or float16. A merge
    is rounded to its own dtype first and to out's then. Raises SourceError from reading.
    """
    return _evaluate(expression, out, _one_span, MappedPages())


def evaluate_all(
    jobs: Sequence[tuple[Expression, torch.Tensor]], num_threads: int
) -> tuple[bool, ...]:
    """`evaluate` every job; large tensors are cut into pieces, small ones run side by side.

    The bits do not depend on num_threads (at least 1). For each job: is the result finite? The
    first error is raised once running pieces have ended; what `out` tensors hold then is undefined.
    """
    mapped = MappedPages()
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i][1].numel())
    if num_threads <= 1:
        found = {i: _evaluate(*jobs[i], _one_span, mapped) for i in order}
        return tuple(found[i] for i in range(len(jobs)))
    large = [i for i in order if jobs[i][1].numel() >= _LARGE]
    with ThreadPoolExecutor(num_threads, thread_name_prefix="merge") as pool:
        spans = _pooled_spans(pool, num_threads)
        found = {i: _evaluate(*jobs[i], spans, mapped) for i in large}
        futures = {
            i: pool.submit(_evaluate, *jobs[i], _one_span, mapped) for i in order[len(large) :]
        }
        try:
            found |= {i: future.result() for i, future in futures.items()}
        finally:
            for future in futures.values():
                future.cancel()
    return tuple(found[i] for i in range(len(jobs)))


def _evaluate(expression: Expression, out: torch.Tensor, spans: Spans, mapped: MappedPages) -> bool:
    if out.numel() == 0:
        return True
    node = expression.node
    if isinstance(node, Leaf):
        tensor = _read(node, mapped)
        finite = _copy(tensor.reshape(-1), out.view(-1), spans)
        mapped.release([tensor] if node.rows is None else [])
        return finite
    inputs = [_materialise(each, spans, mapped) for each in node.inputs]
    finite = _merge(node, _filled(node, inputs), out, spans)
    leaves = zip(node.inputs, inputs, strict=True)
    mapped.release([tensor for each, tensor in leaves if isinstance(each.node, Leaf)])
    return finite


def _merge(node: Merge, inputs: Sequence[torch.Tensor], out: torch.Tensor, spans: Spans) -> bool:
    fused = _fused()
    statistics: Statistics = (
        TorchStatistics(inputs) if fused is None else fused.FusedStatistics(inputs, spans)
    )
    combination = METHODS[node.method](node.coefficients, statistics)
    if needs_whole_tensor(combination):
        shaped = [tensor.to(out.device) for tensor in inputs]
        out.copy_(combine(combination, shaped, 0).to(node.dtype).reshape(out.shape))
        return is_finite(out)
    if fused is None or out.device.type != "cpu":
        return _combine_with_torch(combination, inputs, node.dtype, out, spans)
    return bool(fused.combine_into(combination, inputs, node.dtype, out, spans))


def _combine_with_torch(
    combination: Combination,
    inputs: Sequence[torch.Tensor],
    dtype: torch.dtype,
    out: torch.Tensor,
    spans: Spans,
) -> bool:
    flat, result = [tensor.reshape(-1) for tensor in inputs], out.view(-1)
    finite: list[bool] = []

    def piece(start: int, stop: int) -> None:
        for at in range(start, stop, CHUNK):
            end = min(stop, at + CHUNK)
            parts = [tensor[at:end].to(out.device) for tensor in flat]
            result[at:end].copy_(combine(combination, parts, at).to(dtype))
            finite.append(is_finite(result[at:end]))

    spans(out.numel(), piece)
    return all(finite)


def _materialise(expression: Expression, spans: Spans, mapped: MappedPages) -> torch.Tensor:
    """The input as a contiguous CPU tensor that kernels read; a nested merge in its own dtype."""
    node = expression.node
    if isinstance(node, Leaf):
        tensor = _read(node, mapped).contiguous()
    else:
        tensor = torch.empty(expression.shape, dtype=node.dtype)
        _evaluate(expression, tensor, spans, mapped)
    return tensor if tensor.dtype in _FUSED_DTYPES else tensor.to(torch.float32)


def _read(leaf: Leaf, mapped: MappedPages) -> torch.Tensor:
    tensor = leaf.reader.read(leaf.name)
    if leaf.rows is None:
        return tensor
    picked = pick_rows(tensor, leaf.rows)
    mapped.release([tensor])
    return picked


def _filled(node: Merge, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    present = [_present(each) for each in node.inputs]
    if all(bool(has.all()) for has in present if has is not None):
        return inputs
    every = torch.ones(len(inputs[0]), dtype=torch.bool)
    known = [every if has is None else has for has in present]
    return fill_missing(inputs, known, has_base=node.coefficients.has_base)


def _present(expression: Expression) -> torch.Tensor | None:
    """bool (num_rows,): which rows some source of the expression has; None for all."""
    node = expression.node
    if isinstance(node, Leaf):
        return None if node.rows is None else node.rows >= 0
    parts = [_present(each) for each in node.inputs]
    known = [part for part in parts if part is not None]
    return torch.stack(known).any(dim=0) if len(known) == len(parts) else None


def _copy(source: torch.Tensor, out: torch.Tensor, spans: Spans) -> bool:
    """In pieces so small that torch starts no threads of its own."""
    finite: list[bool] = []

    def piece(start: int, stop: int) -> None:
        for at in range(start, stop, CHUNK // 4):
            end = min(stop, at + CHUNK // 4)
            out[at:end].copy_(source[at:end])
            finite.append(is_finite(out[at:end]))

    spans(out.numel(), piece)
    return all(finite)


def _one_span(num_elements: int, piece: Piece) -> None:
    piece(0, num_elements)


def _pooled_spans(pool: ThreadPoolExecutor, num_threads: int) -> Spans:
    """Runs pieces of whole chunks in the pool; must not be called from one of its threads."""

    def spans(num_elements: int, piece: Piece) -> None:
        num_chunks = -(-num_elements // CHUNK)
        step = max(1, -(-num_chunks // (num_threads * _PIECES_PER_THREAD))) * CHUNK
        starts = range(0, num_elements, step)
        list(pool.map(piece, starts, [min(at + step, num_elements) for at in starts]))

    return spans


@functools.cache
def _fused() -> ModuleType | None:
    try:
        return importlib.import_module("evoserve.merge.fused")
    except ImportError:
        return None
