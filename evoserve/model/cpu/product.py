"""A whole product, rows times panels, of which every thread takes the next piece."""

from typing import Any

from evoserve.jit import call, part
from evoserve.model.cpu.atomic import first_piece, next_piece
from evoserve.model.cpu.simd import (
    BFLOAT16,
    FLOAT16,
    INT8,
    MAX_ROWS,
    PANEL,
)

ROWS_PER_TILE = 48
_PANELS_PER_PIECE = 8
_PIECES_PER_THREAD = 8


@part
def multiply_rows(
    kernels: Any, linear: Any, rows: Any, num_rows: int, out: Any, share: Any
) -> None:
    """This thread's share of out = rows @ weight.T + bias.

    kernels: records.KERNELS; linear: records.LINEAR; rows: (address, bytes per row, address of
    the rows' scales); out: (address, bytes per row); share: (phase, number of threads).
    """
    phase, num_threads = share
    most = linear.num_panels // (num_threads * _PIECES_PER_THREAD)
    size = max(1, min(_PANELS_PER_PIECE, most))
    count = -(-linear.num_panels // size)
    piece = first_piece(phase, count)
    while piece >= 0:
        first = piece * size
        last = min(first + size, linear.num_panels)
        for start in range(0, num_rows, ROWS_PER_TILE):
            span = (start, min(ROWS_PER_TILE, num_rows - start))
            for panel in range(first, last):
                _multiply_panel(kernels, linear, rows, span, panel, out)
        piece = next_piece(phase, count)


@part
def _multiply_panel(
    kernels: Any, linear: Any, rows: Any, span: tuple[int, int], panel: int, out: Any
) -> None:
    """Rows in groups as equal as can be: fewer than four rows keep too few sums in flight."""
    address, stride, scales = rows
    row, num_rows = span
    num_groups = -(-num_rows // MAX_ROWS)
    item_bytes = _item_bytes(linear.kind)
    panel_bytes = PANEL * linear.num_in * item_bytes
    weight = linear.weight + panel * panel_bytes
    bias = linear.bias + 4 * PANEL * panel
    for group in range(num_groups):
        count = num_rows // num_groups + (1 if group < num_rows % num_groups else 0)
        source = address + row * stride
        target = out[0] + row * out[1] + 4 * PANEL * panel
        if linear.kind == INT8:
            columns = linear.scales + 4 * PANEL * panel
            call(kernels.multiply_int8, (
                count, source, stride, weight, linear.num_in, target, out[1],
                bias, panel_bytes, columns, scales + 4 * row,
            ))  # fmt: skip
        else:
            call(kernels.multiply_dense, (
                linear.kind, count, source, stride, weight, linear.num_in,
                target, out[1], bias, panel_bytes,
            ))  # fmt: skip
        row += count


@part
def _item_bytes(kind: int) -> int:
    if kind == INT8:
        return 1
    return 2 if kind in (BFLOAT16, FLOAT16) else 4
