"""How whole calls are timed, in PyTorch and in engines alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from seqexport.runtimes.base import Runner, Tokens


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of a call that ends on the host."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return statistics.median(times)


def prefill_seconds(runner: Runner, tokens: Tokens, repeats: int) -> float:
    """Median of a prompt [1, L] into empty states, in one session, after one that is not counted."""
    times = []
    with runner.session(1, tokens.shape[1]) as session:
        empty = session.read_states()
        for _ in range(repeats + 1):
            session.write_states(empty, np.zeros(1, np.int32))
            times.append(seconds(lambda: session.prefill(tokens), 1))
    return statistics.median(times[1:])
