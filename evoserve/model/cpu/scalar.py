"""Elementary functions that LLVM vectorises where a loop calls them, and memory by address."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray
from numba.core import types

from evoserve.jit import float32_at, int16_at, int32_at, int64_at, intrinsic, part

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
_SIGN_SHIFT, _MAGNITUDE, _LEAST = np.int32(31), np.int32(0x7FFFFFFF), np.int32(-(2**31))
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
    clipped = x if x > _LOWEST else _LOWEST
    clipped = clipped if clipped < _HIGHEST else _HIGHEST
    n = np.floor(clipped * _LOG2E + _HALF)
    r = clipped - n * _LN2_HIGH - n * _LN2_LOW
    p = ((((_P0 * r + _P1) * r + _P2) * r + _P3) * r + _P4) * r + _P5
    power = float_of_bits((np.int32(n) + _EXPONENT_BIAS) << _MANTISSA_BITS)
    result = (p * r * r + r + _ONE) * power
    return result if x == x else x


@part
def largest_of(address: int, count: int) -> Any:
    """The largest of float32 at `address`; a positive NaN counts as larger than all.

    Compared as integers, which vectors can: of floats, LLVM must keep the order for NaN's sake.
    """
    bits = carray(int32_at(address), (count,))
    most = _LEAST
    for i in range(count):
        most = max(most, np.int32(bits[i] ^ ((bits[i] >> _SIGN_SHIFT) & _MAGNITUDE)))
    return float_of_bits(np.int32(most ^ ((most >> _SIGN_SHIFT) & _MAGNITUDE)))


@part
def largest_magnitude(address: int, count: int) -> Any:
    """The largest absolute value of float32 at `address`; NaN counts as larger than infinity."""
    bits = carray(int32_at(address), (count,))
    most = np.int32(0)
    for i in range(count):
        most = max(most, np.int32(bits[i] & _MAGNITUDE))
    return float_of_bits(most)


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
