"""What is said of values that are not finite, and what helps against them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError

if TYPE_CHECKING:
    from seqexport.runtimes.base import Floats, Runner

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


def check_logits(runner: Runner, logits: Floats, where: str) -> None:
    """Refuse logits that are not finite: no choice among them means anything.

    Raises:
        UserError: how many values, and what may help.
    """
    if told := not_finite(logits):
        dtype = runner.manifest.dtype
        raise UserError(f"the logits of {where} are not finite on {runner.backend} in {dtype}: {told}; {ADVICE[dtype]}")
