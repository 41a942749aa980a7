"""Vocabulary tables whose sources know different tokens: picking rows, filling in missing ones."""

from collections.abc import Sequence

import torch

_BLOCK_ROWS = 4096


def pick_rows(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of `table` (num_rows, width) in the order of `rows`, in the table's dtype.

    A row of -1 becomes the mean of all rows of the table, as good a start as any for a token the
    source has never seen; a merge puts something better there if another input has the token.
    """
    picked = table[rows.clamp(min=0)]
    missing = rows < 0
    if bool(missing.any()):
        picked[missing] = _mean_row(table).to(table.dtype)
    return picked


def fill_missing(
    tables: Sequence[torch.Tensor], present: Sequence[torch.Tensor], *, has_base: bool
) -> list[torch.Tensor]:
    """The tables of a merge's inputs with a row that an input lacks taken from the others.

    present: bool (num_rows,) per input. The base's row (input 0) stands in, so the task vector is
    zero there; where the base lacks it too, or there is none, the mean over the inputs that have
    it (float32, in order of summation) does. Rows that no input has stay as they are.
    """
    mean = _mean_of_present(tables, present)
    somewhere = torch.stack(list(present)).any(dim=0)
    filled = []
    for table, has in zip(tables, present, strict=True):
        missing = ~has & somewhere
        if not bool(missing.any()):
            filled.append(table)
            continue
        donor = mean
        if has_base:
            donor = torch.where(present[0][:, None], tables[0].to(torch.float32), mean)
        copy = table.to(torch.float32, copy=True)
        copy[missing] = donor[missing]
        filled.append(copy)
    return filled


def _mean_of_present(
    tables: Sequence[torch.Tensor], present: Sequence[torch.Tensor]
) -> torch.Tensor:
    total = torch.zeros_like(tables[0], dtype=torch.float32)
    count = torch.zeros(len(tables[0]), 1)
    for table, has in zip(tables, present, strict=True):
        total += torch.where(has[:, None], table.to(torch.float32), 0.0)
        count += has[:, None]
    return total / count.clamp(min=1)


def _mean_row(table: torch.Tensor) -> torch.Tensor:
    """float64 mean over rows, added in blocks of fixed size so that memory stays small."""
    total = torch.zeros(table.shape[1:], dtype=torch.float64)
    for start in range(0, len(table), _BLOCK_ROWS):
        total += table[start : start + _BLOCK_ROWS].double().cumsum(0)[-1]
    return total / max(len(table), 1)
