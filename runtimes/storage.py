"""Floats as NumPy holds them, which has no bfloat16."""

from __future__ import annotations

from collections.abc import Sequence
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


def readable(stored: Array, dtype: str) -> Array:
    """Values that are stored as ``storage(dtype)``; bfloat16 as a new float32 array."""
    return to_float32(stored, dtype) if dtype == "bfloat16" else stored


def stored_zeros(shape: Sequence[int], dtype: str, given: Array | None = None) -> Array:
    """Zeros as ``storage(dtype)``; the first rows along axis 2, the tokens of a cache, are those of ``given``."""
    array = np.zeros(shape, storage(dtype))
    if given is not None:
        part = array[:, :, : given.shape[2]] if given.shape != array.shape else array
        part[...] = from_float32(given, dtype)
    return array
