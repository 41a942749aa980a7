"""Elementary functions that LLVM vectorises where a loop calls them, and memory by address."""

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import types

from evoserve.jit import float32_at, int16_at, int64_at, intrinsic, part

Array = np.ndarray[Any, Any]
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LOWEST, _HIGHEST = np.float32(-87.0), np.float32(88.0)
_P0, _P1, _P2, _P3, _P4, _P5 = (
    np.float32(each)
    for each in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_ONE, _HALF = np.float32(1.0), np.float32(0.5)
_EXPONENT_BIAS, _MANTISSA_BITS = np.int32(127), np.int32(23)


@intrinsic
def float_of_bits(_context: Any, _bits: Any) -> Any:
    """The float32 with these 32 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(values[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def float_of_half(_context: Any, _bits: Any) -> Any:
    """The float32 that equals the float16 with these 16 bits."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.uint16), generate


@part
def exponential(x: Any) -> Any:
    """e**x of a float32 to 2 units in the last place within [-87, 88], clipped there; NaN is NaN.

    The polynomial is that of Cephes' expf.
    """
    clipped = min(max(x, _LOWEST), _HIGHEST)
    n = np.float32(math.floor(clipped * _LOG2E + _HALF))
    r = clipped - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    power = float_of_bits((np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS)
    result = (p * r * r + r + _ONE) * power
    return result if x == x else x


@part
def floats(address: int, count: int) -> Array:
    """`count` float32 at `address`."""
    return carray(float32_at(address), (count,))  # type: ignore[no-any-return]


@part
def integers(address: int, count: int) -> Array:
    """`count` int64 at `address`."""
    return carray(int64_at(address), (count,))  # type: ignore[no-any-return]


@part
def shorts(address: int, count: int) -> Array:
    """`count` int16 at `address`."""
    return carray(int16_at(address), (count,))  # type: ignore[no-any-return]
