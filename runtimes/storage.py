"""Floats as NumPy holds them, which has no bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def storage(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that holds elements of a dtype; numpy has no bfloat16, so its bits."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def to_float32(array: Array, dtype: str) -> NDArray[np.float32]:
    """A new float32 array of values that are stored as ``storage(dtype)``."""
    if dtype != "bfloat16":
        return array.astype(np.float32)
    return (array.astype(np.uint32) << 16).view(np.float32)


def from_float32(array: Array, dtype: str) -> Array:
    """Values as ``storage(dtype)``, rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
