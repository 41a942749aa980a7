"""Gives the memory of mapped checkpoint files back as soon as a tensor has been merged.

Mapped pages count as the process's memory until it drops them; the page cache keeps them for the
next build. Only whole pages that lie in a file's mapping are dropped, so nothing can be lost: our
mappings are private and never written to.
"""

import ctypes
import mmap
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

_MAPS = Path("/proc/self/maps")
# Range, permissions, offset, device, inode and path; hundreds of lines, read for many a tensor.
_FILE_LINE = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ..-p [0-9a-f]+ \S+ \d+ +(/(?!dev/).*)$", re.MULTILINE
)
_MIN_BYTES = 1 << 16
_DONTNEED = 4


class MappedPages:
    """Drops the pages of file-mapped tensors on Linux, does nothing elsewhere.

    It remembers where files are mapped, so it must not outlive the readers of the tensors.
    """

    def __init__(self) -> None:
        self._ranges: tuple[tuple[int, int], ...] = ()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def release(self, tensors: Sequence[torch.Tensor]) -> None:
        """Drop the pages of those tensors that lie in a mapped file; the others are left alone."""
        for tensor in tensors:
            if self._libc is None or tensor.device.type != "cpu" or tensor.nbytes < _MIN_BYTES:
                continue
            start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
            first, last = -(-start // mmap.PAGESIZE), stop // mmap.PAGESIZE
            if last > first and self._is_mapped(start, stop):
                size = ctypes.c_size_t((last - first) * mmap.PAGESIZE)
                self._libc.madvise(ctypes.c_void_p(first * mmap.PAGESIZE), size, _DONTNEED)

    def _is_mapped(self, start: int, stop: int) -> bool:
        if _within(start, stop, self._ranges):
            return True
        found = _within(start, stop, _file_ranges())
        self._ranges += found
        return bool(found)


def _within(
    start: int, stop: int, ranges: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    return tuple((first, last) for first, last in ranges if first <= start and stop <= last)


def _file_ranges() -> tuple[tuple[int, int], ...]:
    """Address ranges of all privately mapped plain files that are no code."""
    try:
        text = _MAPS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(
        (int(first, 16), int(last, 16))
        for first, last, path in _FILE_LINE.findall(text)
        if ".so" not in path.rpartition("/")[2]
    )
