"""How whole calls are timed, in PyTorch and in engines alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of a call that ends on the host."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return statistics.median(times)
