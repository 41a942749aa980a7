"""Weights laid out for the micro-kernels: panels of 16 output columns, see `simd`."""

from dataclasses import dataclass

import numpy as np
import torch

from evoserve.jit import compiled
from evoserve.model.cpu.native import load_kernels
from evoserve.model.cpu.product import multiply_rows
from evoserve.model.cpu.records import LINEAR, Array, padded_in, wide
from evoserve.model.cpu.rows import embed, quantize_row
from evoserve.model.cpu.scalar import floats
from evoserve.model.cpu.simd import BFLOAT16, FLOAT16, FLOAT32, INT8, PANEL
from evoserve.model.heap import prefer_huge_pages
from evoserve.model.quantize import WEIGHT_LEVELS, token_levels

_WIDENED_ROWS = 32 * PANEL
_KINDS = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """A `Linear` over float32 rows whose weights are float32, bfloat16, float16 or int8.

    weight: (num_panels, padded num_in, 16), int8: (num_panels, padded num_in / 2, 16, 2), zero
    where a panel has no output or input; bias and, for int8, scales: float32 (num_panels * 16,).
    """

    num_out: int
    num_in: int
    weight: torch.Tensor
    bias: torch.Tensor
    scales: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of weight, bias and scales."""
        scales = 0 if self.scales is None else self.scales.nbytes
        return self.weight.nbytes + self.bias.nbytes + scales

    @property
    def kind(self) -> int:
        """Of the weights, as the kernels number it."""
        return INT8 if self.scales is not None else _KINDS[self.weight.dtype]

    def record(self) -> Array:
        """A records.LINEAR (1,); valid while the linear lives."""
        record = np.zeros(1, LINEAR)
        record["kind"] = self.kind
        record["weight"] = self.weight.data_ptr()
        record["bias"] = self.bias.data_ptr()
        record["scales"] = 0 if self.scales is None else self.scales.data_ptr()
        record["largest"] = token_levels(self.num_in)
        record["num_in"] = padded_in(self.num_in)
        record["num_panels"] = self.weight.shape[0]
        return record

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """float32 (num_tokens, num_in) -> (num_tokens, num_out), on the calling thread alone."""
        num_rows, width = inputs.shape[0], wide(self.num_in)
        rows, out = torch.zeros(num_rows, width), torch.empty(num_rows, wide(self.num_out))
        rows[:, : self.num_in] = inputs
        scales, quantized = torch.empty(num_rows), torch.empty(num_rows, width, dtype=torch.int16)
        _multiply(
            load_kernels().record,
            self.record(),
            (num_rows, width),
            (rows.data_ptr(), quantized.data_ptr(), scales.data_ptr(), out.data_ptr()),
        )
        return out[:, : self.num_out]


@dataclass(frozen=True, eq=False)
class PackedEmbedding:
    """Looks up the rows of a packed table, which a tied head multiplies with."""

    table: PackedLinear

    @property
    def num_bytes(self) -> int:
        """Bytes of the table."""
        return self.table.num_bytes

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(num_tokens,) -> float32 (num_tokens, hidden_size)."""
        out = torch.empty(len(token_ids), self.table.num_in)
        _look_up(self.table.record(), token_ids.numpy(), out.numpy())
        return out


def pack_dense(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
    """Pack a contiguous CPU weight (num_out, num_in), float32, bfloat16 or float16, as it is."""
    num_out, num_in = weight.shape
    panels = torch.empty(wide(num_out) // PANEL, padded_in(num_in), PANEL, dtype=weight.dtype)
    prefer_huge_pages(panels)
    bits = torch.int32 if weight.dtype == torch.float32 else torch.int16
    _transpose(weight.view(bits).numpy(), panels.view(bits).numpy())
    return PackedLinear(num_out, num_in, panels, _padded_bias(bias, num_out))


def pack_int8(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
    """Quantise a CPU weight (num_out, num_in) of any float dtype by output channel and pack it.

    Integers and scales are those of `evoserve.model.quantize` for the weight in float32.
    """
    num_out, num_in = weight.shape
    shape = (wide(num_out) // PANEL, padded_in(num_in) // 2, PANEL, 2)
    panels, scales = torch.empty(shape, dtype=torch.int8), torch.ones(wide(num_out))
    prefer_huge_pages(panels)
    for first in range(0, num_out, _WIDENED_ROWS):  # few at a time in float32, which stay in cache
        rows = weight[first : first + _WIDENED_ROWS].float()
        mine = panels[first // PANEL : wide(first + len(rows)) // PANEL]
        _quantize_channels(rows.numpy(), mine.numpy(), scales[first:].numpy())
    return PackedLinear(num_out, num_in, panels, _padded_bias(bias, num_out), scales)


def _padded_bias(bias: torch.Tensor | None, num_out: int) -> torch.Tensor:
    padded = torch.zeros(wide(num_out))
    if bias is not None:
        padded[:num_out] = bias
    return padded


@compiled
def _transpose(weight: Array, panels: Array) -> None:
    """(num_out, num_in) into (num_panels, padded, 16), the rest zero."""
    num_out, num_in = weight.shape
    for panel in range(panels.shape[0]):
        first = panel * PANEL
        count = min(PANEL, num_out - first)
        if count < PANEL or num_in < panels.shape[1]:
            panels[panel] = 0
        for k in range(num_in):
            for column in range(count):
                panels[panel, k, column] = weight[first + column, k]


@compiled
def _quantize_channels(weight: Array, panels: Array, scales: Array) -> None:
    """float32 (num_out, num_in) into int8 (num_panels, padded / 2, 16, 2) and their scales."""
    num_out, num_in = weight.shape
    if num_out % PANEL or num_in < 2 * panels.shape[1]:
        panels[:] = 0
    row = np.empty(num_in, np.int16)
    for channel in range(num_out):
        scales[channel] = quantize_row(
            weight[channel].ctypes.data, num_in, WEIGHT_LEVELS, row.ctypes.data
        )
        panel, column = divmod(channel, PANEL)
        for k in range(num_in):
            panels[panel, k >> 1, column, k & 1] = row[k]


@compiled
def _look_up(table: Array, token_ids: Array, out: Array) -> None:
    for index in range(token_ids.size):
        embed(table[0], token_ids[index], 1.0, out.shape[1], out[index].ctypes.data)


@compiled
def _multiply(
    kernels: Array, linear: Array, sizes: tuple[int, int], buffers: tuple[int, int, int, int]
) -> None:
    """The product on one thread."""
    num_rows, width = sizes
    rows, quantized, scales, out = buffers
    each, phase = linear[0], np.zeros(2, np.int64)
    source, stride = rows, 4 * width
    if each.kind == INT8:
        source, stride = quantized, 2 * width
        row_scales = floats(scales, num_rows)
        for row in range(num_rows):
            row_scales[row] = quantize_row(
                rows + 4 * row * width, each.num_in, each.largest, quantized + 2 * row * width
            )
    described = (source, stride, scales)
    target = (out, 4 * PANEL * each.num_panels)
    multiply_rows(kernels[0], each, described, num_rows, target, (phase.ctypes.data, 1))
