"""How calls of a kernel are timed."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter

import torch

Call = Callable[[], object]

MORE_THAN_L2 = 150e6
"""Bytes."""


def microseconds(call: Call, repeats: int = 50) -> float:
    """Median of one call, each with the L2 cache cleared before it."""
    flush = torch.zeros(1 << 26, device="cuda")  # read, not written: writing would leave write-backs to the timed call
    for _ in range(3):
        call()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        flush.sum()
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) * 1e3


def microseconds_in_graph(calls: Sequence[Call], rounds: int = 10) -> float:
    """Of one call, in a CUDA graph that makes them in turn; for calls whose inputs together exceed the L2 cache."""
    calls[0]()  # what is loaded or compiled at first use cannot be while a graph is captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in list(calls) * rounds:
            call()
    return microseconds(graph.replay, 5) / (len(calls) * rounds)


def clock_during(call: Call, seconds: float = 0.4) -> float:
    """Hz of the SMs while ``call`` runs again and again: at rest they tick at a fraction of it (345 MHz on an H200)."""
    readings, end = [], perf_counter() + seconds
    while perf_counter() < end:
        for _ in range(20):
            call()
        readings.append(torch.cuda.clock_rate())
        torch.cuda.synchronize()
    return statistics.median(readings[len(readings) // 2 :]) * 1e6
