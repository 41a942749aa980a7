"""What the system is told about memory, beyond asking for it."""

import ctypes
import mmap
import sys

import torch

_HUGE_PAGE_BYTES = 2 * 2**20


def trim_heap() -> None:
    """Return what the C library keeps of freed blocks (glibc; elsewhere nothing).

    Blocks of less than 32 MB are kept for reuse otherwise: half the weights' size after a build.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def prefer_huge_pages(tensor: torch.Tensor) -> None:
    """Ask Linux to back a large CPU tensor with pages of 2 MB where it can; elsewhere nothing.

    Memory read in long strides otherwise waits for an address translation every 4 KB.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    start = -(-tensor.data_ptr() // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    size = (tensor.data_ptr() + tensor.nbytes - start) // _HUGE_PAGE_BYTES * _HUGE_PAGE_BYTES
    if advice is not None and size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)
