"""Logits as a runtime gave them, of 16 bits or of 32: what is likeliest, without widening them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.cores import by_rows

Array = NDArray[Any]
INFINITE = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF0 << 48}
"""The bits of infinity, by dtype; NaNs have larger ones, and all other values smaller ones, but for the sign."""

TOGETHER = 8
"""Rows whose bits a core's own cache holds."""


def likeliest(logits: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each row of logits [batch, vocab]: the first of the largest values, and whether all values are finite.

    Values that are not negative lie in the order of their bits as whole numbers, which NumPy compares many times faster
    than floats of 16 bits. A row without a larger value than 0 is compared as float32.
    """
    bits = logits.view(np.dtype(f"i{logits.itemsize}"))
    tokens, finite = np.empty(len(logits), np.int64), np.empty(len(logits), bool)
    sign, infinite = np.iinfo(bits.dtype).max, INFINITE[logits.dtype.name]

    def look(rows: slice) -> None:
        for start in range(rows.start, rows.stop, TOGETHER):
            few = slice(start, min(start + TOGETHER, rows.stop))
            tokens[few] = bits[few].argmax(1)
            finite[few] = (bits[few] & sign).max(1) < infinite

    by_rows(look, len(logits), logits.nbytes)
    for row in np.flatnonzero(bits[np.arange(len(bits)), tokens] <= 0):
        if bits[row].any():
            tokens[row] = logits[row].astype(np.float32).argmax()
    return tokens, finite
