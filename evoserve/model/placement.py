"""Where built weights go and in what form: the one place that picks a kernel for a projection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from evoserve.model.cpu.packed import PackedEmbedding, PackedLinear, pack_dense, pack_int8
from evoserve.model.linear import DenseEmbedding, DenseLinear, Linear, Table
from evoserve.model.quantize import Int8Embedding, Int8Linear, quantize_weight

Quantization = Literal["int8"]

_DRAFT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Placement:
    """Device, dtype of the activations, and how matrices are stored (None: in that dtype).

    is_packed: in panels for the CPU's compiled kernels, float32 activations; a matrix that the
    recipe makes in bfloat16 or float16 is kept in that, which loses nothing.
    """

    device: str
    dtype: torch.dtype
    quantization: Quantization | None = None
    is_packed: bool = False

    def draft_dtype(self, dtypes: Sequence[torch.dtype]) -> torch.dtype:
        """What to evaluate a matrix in, whose parts come out of the merge in `dtypes`.

        What is quantised is never rounded to the activations' dtype first.
        """
        if self.quantization is None and not self.is_packed:
            return self.dtype
        is_one = len(set(dtypes)) == 1 and dtypes[0] in _DRAFT_DTYPES
        return dtypes[0] if is_one else torch.float32


def choose_placement(
    device: str, dtype: torch.dtype, quantization: Quantization | None, *, enforce_eager: bool
) -> Placement:
    """Packed for the compiled kernels on a CPU in float32, unless plain torch is enforced."""
    is_packed = device == "cpu" and dtype == torch.float32 and not enforce_eager
    return Placement(device, dtype, quantization, is_packed)


def make_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, placement: Placement, num_threads: int
) -> Linear:
    """A projection from its CPU draft, which nobody else uses and which it may keep.

    weight: (num_out, num_in) in the draft dtype, or in that of the activations if not quantised;
    num_threads: how many may work on it.
    """
    placed = None if bias is None else bias.to(placement.device)
    if placement.is_packed:
        return _pack(weight, bias, placement)
    if placement.quantization is None:
        return DenseLinear(weight.to(placement.device), placed)
    rows, scales = quantize_weight(weight, num_threads)
    return Int8Linear(rows.to(placement.device), scales.to(placement.device), placed)


def make_table(weight: torch.Tensor, placement: Placement, num_threads: int) -> Table:
    """A vocabulary table (num_rows, hidden_size) from its CPU draft, see `make_linear`."""
    if placement.is_packed:
        table = _pack(weight, None, placement)
        return Table(PackedEmbedding(table), table, table.num_bytes)
    if placement.quantization is None:
        kept = weight.to(placement.device)
        return Table(DenseEmbedding(kept), DenseLinear(kept), kept.nbytes)
    rows, scales = (each.to(placement.device) for each in quantize_weight(weight, num_threads))
    embed = Int8Embedding(rows, scales, placement.dtype)
    return Table(embed, Int8Linear(rows, scales), embed.num_bytes)


def matrix_bytes(num_rows: int, num_columns: int, dtype: torch.dtype, placement: Placement) -> int:
    """Bytes of a matrix that comes out of the merge in `dtype`, once it is placed."""
    if placement.quantization is None:
        return num_rows * num_columns * placement.draft_dtype([dtype]).itemsize
    return num_rows * (num_columns + torch.float32.itemsize)


def _pack(weight: torch.Tensor, bias: torch.Tensor | None, placement: Placement) -> PackedLinear:
    if placement.quantization is None:
        return pack_dense(weight, bias)
    return pack_int8(weight, bias)
