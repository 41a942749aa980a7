"""The kernels that are compiled by themselves and called by address: every caller stays small."""

import functools
from dataclasses import dataclass

import numpy as np
from numba import carray

from evoserve.jit import NativeFunction, native, void_at
from evoserve.model.cpu import simd
from evoserve.model.cpu.forward import run_path
from evoserve.model.cpu.records import JOB, KERNELS, STEP, Array
from evoserve.model.cpu.scalar import integers


@dataclass(frozen=True, eq=False)
class Kernels:
    """Compiled code; `record` (1,) and `run_path` are good while this lives."""

    record: Array
    functions: tuple[NativeFunction, ...]

    @property
    def run_path(self) -> int:
        """Address of a function of (job, steps, number of steps, thread)."""
        return self.functions[-1].address


@functools.cache
def load_kernels() -> Kernels:
    """From the compiler's cache on disk, or compiled, which takes seconds."""
    parts = (
        native(_multiply_dense),
        native(_multiply_int8),
        native(_accumulate),
    )
    record = np.array([tuple(part.address for part in parts)], KERNELS)
    return Kernels(record, (*parts, native(_run_path)))


def _multiply_dense(arguments: int) -> None:
    simd.multiply_dense(arguments)


def _multiply_int8(arguments: int) -> None:
    simd.multiply_int8(arguments)


def _accumulate(arguments: int) -> None:
    simd.accumulate(arguments)


def _run_path(arguments: int) -> None:
    given = integers(arguments, 4)
    jobs = carray(void_at(given[0]), (1,), JOB)
    run_path(jobs[0], carray(void_at(given[1]), (given[2],), STEP), given[3])
