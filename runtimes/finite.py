"""What is said of values that are not finite, and what helps against them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ADVICE = {
    "float16": "export in bf16 or fp32, whose numbers reach further",
    "bfloat16": "export in fp32; if that does not help, the weights are not what the model was trained with",
    "float32": "no dtype here reaches further: the weights are not what the model was trained with",
}
"""By the dtype that was too narrow."""


def not_finite(array: NDArray[Any]) -> str | None:
    """How many values are NaN or infinite, ``3 of 480 values (NaN)``; None where all are finite."""
    finite = np.isfinite(array)
    if finite.all():
        return None
    bad = array[~finite]
    nan = np.isnan(bad)
    kinds = ([] if nan.all() else ["infinite"]) + (["NaN"] if nan.any() else [])
    return f"{bad.size:,} of {array.size:,} values ({' and '.join(kinds)})"
