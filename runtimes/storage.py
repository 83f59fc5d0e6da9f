"""Floats as NumPy holds them. It has no bfloat16, and no runtime takes ml_dtypes' one, so its bits travel as uint16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def storage(dtype: str) -> np.dtype[Any]:
    """The numpy dtype that holds elements of a dtype; of bfloat16 its bits."""
    return np.dtype("uint16" if dtype == "bfloat16" else dtype)


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """NumPy's own dtype, and ml_dtypes' bfloat16."""
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype, dtype))


def to_float32(array: Array, dtype: str) -> NDArray[np.float32]:
    """A new float32 array of values that are stored as ``storage(dtype)``."""
    if dtype != "bfloat16":
        return array.astype(np.float32)
    from ml_dtypes import bfloat16

    return array.view(bfloat16).astype(np.float32)


def from_float32(array: Array, dtype: str) -> Array:
    """Values as ``storage(dtype)``, rounded to the nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(dtype)
    from ml_dtypes import bfloat16

    return array.astype(bfloat16).view(np.uint16)


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
