"""What the threads of a team share: counters that only grow, and semaphores of the C library.

Counters are 64-bit cells by address; two of them share out the pieces of a phase. Semaphores put a
thread to sleep without the GIL.
"""

import ctypes
from typing import Any

from llvmlite import ir
from numba.core import types

from evoserve.jit import compiled, intrinsic, part

CELL_BYTES = 8
PHASE_BYTES = 2 * CELL_BYTES
SEMAPHORE_BYTES = 64
_SPINS_BEFORE_YIELD = 2000
_I64 = ir.IntType(64)
_sem_post: Any = types.ExternalFunction("sem_post", types.int32(types.intp))
_sem_wait: Any = types.ExternalFunction("sem_wait", types.int32(types.intp))
_sched_yield: Any = types.ExternalFunction("sched_yield", types.int32())


@intrinsic
def fetch_add(_context: Any, _address: Any, _amount: Any) -> Any:
    """Add to the cell and return what it held."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.PointerType(_I64))
        return builder.atomic_rmw("add", pointer, values[1], "seq_cst")

    return types.int64(types.intp, types.int64), generate


@intrinsic
def read(_context: Any, _address: Any) -> Any:
    """What the cell holds now."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        pointer = builder.inttoptr(values[0], ir.PointerType(_I64))
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.intp), generate


@part
def first_piece(phase: int, count: int) -> int:
    """A piece of a phase of `count` pieces to work on, -1 once all of them are done.

    phase: two cells that are 0 before anybody comes: pieces taken, pieces done. Whoever asks gets
    the next piece, so that threads that lost their core for a while are not waited for, but for
    the piece they hold.
    """
    piece: int = fetch_add(phase, 1)
    if piece < count:
        return piece
    wait_for(phase + CELL_BYTES, count)
    return -1


@part
def next_piece(phase: int, count: int) -> int:
    """The same, after a piece is done."""
    fetch_add(phase + CELL_BYTES, 1)
    return first_piece(phase, count)


@part
def wait_for(address: int, value: int) -> None:
    """Until the cell holds at least `value`; spins, then offers its core to others."""
    spins = 0
    while read(address) < value:
        spins += 1
        if spins > _SPINS_BEFORE_YIELD:
            _sched_yield()


@compiled
def post(semaphore: int) -> None:
    """Let one waiting thread go on."""
    _sem_post(semaphore)


@part
def wait(semaphore: int) -> None:
    """Sleep until somebody posts; a signal that interrupts the sleep does not end it."""
    while _sem_wait(semaphore) != 0:
        pass


def init_semaphore(address: int) -> None:
    """Make SEMAPHORE_BYTES of zeroed memory a semaphore that counts 0. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.sem_init(ctypes.c_void_p(address), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "sem_init failed")
