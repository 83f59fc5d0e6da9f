"""Floats as NumPy holds them. It has no bfloat16, and no runtime takes ml_dtypes' one, so its bits travel as uint16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.cores import by_rows

Array = NDArray[Any]


def storage(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that holds elements of a dtype; of bfloat16 its bits."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """NumPy's own dtype, and ml_dtypes' bfloat16."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def own(stored: Array, dtype: str) -> Array:
    """A copy of values [rows, ...] that are stored as ``storage(dtype)``, bfloat16 as ml_dtypes' own."""
    copy = np.empty_like(stored)

    def take(rows: slice) -> None:
        copy[rows] = stored[rows]

    by_rows(take, len(stored), stored.nbytes)
    return copy.view(numpy_dtype(dtype))


def widened(array: Array) -> NDArray[Any]:
    """Values [rows, ...] of 16 bits as a new array of float32; wider ones as they are."""
    if array.itemsize > 2:
        return array
    wide = np.empty(array.shape, np.float32)

    def widen(rows: slice) -> None:
        wide[rows] = array[rows]

    by_rows(widen, len(array), wide.nbytes)
    return wide


def from_float32(array: Array, dtype: str) -> Array:
    """Values as ``storage(dtype)``, rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    from ml_dtypes import bfloat16

    return array.astype(bfloat16).view(np.uint16)


def readable(stored: Array, dtype: str) -> Array:
    """Values that are stored as ``storage(dtype)``; bfloat16 as a new float32 array."""
    return widened(stored.view(numpy_dtype(dtype))) if dtype == "bfloat16" else stored


def stored_zeros(shape: Sequence[int], dtype: str, given: Array | None = None) -> Array:
    """Zeros as ``storage(dtype)``; the first rows along axis 2, the tokens of a cache, are those of ``given``."""
    array = np.zeros(shape, storage(dtype))
    if given is not None:
        part = array[:, :, : given.shape[2]] if given.shape != array.shape else array
        part[...] = from_float32(given, dtype)
    return array
