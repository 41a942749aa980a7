"""The vectorised exponential against numpy's."""

from typing import Any

import numpy as np
import pytest

from evoserve.jit import compiled
from evoserve.model.cpu.scalar import exponential

Array = np.ndarray[Any, Any]


@compiled
def exponentials(values: Array, out: Array) -> None:
    for i in range(values.size):
        out[i] = exponential(values[i])


def all_exponentials(values: Array) -> Array:
    out = np.empty_like(values)
    exponentials(values, out)
    return out


def test_the_exponential_is_right_to_two_units_in_the_last_place() -> None:
    values = np.linspace(-87, 88, 1_000_003, dtype=np.float32)
    exact = np.exp(values.astype(np.float64))
    spacing = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert (np.abs(all_exponentials(values) - exact) / spacing).max() <= 2


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 1.0), (-1e9, np.exp(-87.0)), (1e9, np.exp(88.0))]
)
def test_the_exponential_is_clipped(value: float, expected: float) -> None:
    found = all_exponentials(np.full(9, value, np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_exponential_of_nan_is_nan() -> None:
    values = np.array([np.nan, 1.0] * 8, np.float32)
    assert np.isnan(all_exponentials(values)).tolist() == [True, False] * 8
