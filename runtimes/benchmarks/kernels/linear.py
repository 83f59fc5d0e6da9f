"""Linear beside PyTorch's, in a CUDA graph; a single token reads weights that no cache holds."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from seqexport.runtimes.benchmarks.kernels.bench import Bench, bf16, poisoned, require_near
from seqexport.runtimes.benchmarks.kernels.report import Timed
from seqexport.runtimes.benchmarks.kernels.timing import MORE_THAN_L2, Call, microseconds_in_graph


def measure(bench: Bench, tokens: int, width: int, features: tuple[int, ...]) -> Timed:
    """Up to three projections of the same tokens at once."""
    sets = max(2, -(-int(MORE_THAN_L2) // (2 * width * sum(features)))) if tokens == 1 else 2
    x = bf16(tokens, width)
    weights = [[bf16(each, width, scale=width**-0.5) for each in features] for _ in range(sets)]
    outputs = [poisoned(tokens, each) for each in features]
    named_outputs = dict(zip(("y", "y1", "y2"), outputs, strict=False))

    def ours(weights: list[Tensor]) -> Call:
        named = dict(zip(("weight", "weight1", "weight2"), weights, strict=False))
        return bench.call("linear", x, **named, **named_outputs)

    calls = [ours(each) for each in weights]
    calls[0]()
    for y, weight in zip(outputs, weights[0], strict=True):
        require_near(y, x.double() @ weight.double().T, 4e-3)
    peers = [functools.partial(torch.nn.functional.linear, x, torch.cat(each)) for each in weights]
    rounds = 1 + 100 // sets
    us, peer = (microseconds_in_graph(each, rounds) for each in (calls, peers))
    moved, operations = 2 * width * sum(features), 2 * tokens * width * sum(features)
    note = f"{moved / us / 1e6:.2f} TB/s" if tokens < 64 else f"{operations / us / 1e6:.0f} TFLOP/s"
    shape = f"M,K=({tokens},{width}) N={'+'.join(map(str, features))} bfloat16"
    return Timed("linear", shape, us, bench.rates.floor(moved, operations), {"torch": peer}, note)
