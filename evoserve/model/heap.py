"""Gives freed memory back to the system: drafts come and go among weights that stay."""

import ctypes
import sys


def trim_heap() -> None:
    """Return what the C library keeps of freed blocks (glibc; elsewhere nothing).

    Blocks of less than 32 MB are kept for reuse otherwise: half the weights' size after a build.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
