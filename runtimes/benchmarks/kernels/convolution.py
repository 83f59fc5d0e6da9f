"""CausalConv1d beside a device copy, and causal-conv1d."""

from __future__ import annotations

import torch

from seqexport.runtimes.benchmarks import peers
from seqexport.runtimes.benchmarks.kernels.bench import Bench, bf16, poisoned, require_near
from seqexport.runtimes.benchmarks.kernels.report import Timed, Wanted
from seqexport.runtimes.benchmarks.kernels.timing import microseconds

TAPS = 4
WANTED = {(8, 2048, 5120): Wanted(0.9, "times the speed of a device copy", ("torch copy",))}


def measure(bench: Bench, batch: int, length: int, channels: int) -> Timed:
    x, weight, bias = bf16(batch, length, channels), bf16(channels, TAPS, scale=0.5), bf16(channels)
    past, y = bf16(batch, channels, TAPS - 1), poisoned(batch, length, channels)
    call = bench.call("causal_conv1d", x, weight, bias, past, None, y, past.clone(), "silu")
    call()
    xx = torch.cat([past[:1].transpose(1, 2), x[:1]], 1).double()
    true = sum((xx[:, j : j + length] * weight.double()[:, j] for j in range(TAPS)), bias.double())
    require_near(y[:1], torch.nn.functional.silu(true), 4e-3)
    theirs = {"torch copy": microseconds(lambda: y.copy_(x))}
    if peer := peers.convolution(x, weight, bias):
        theirs["causal_conv1d"] = microseconds(peer)
    ours, moved = microseconds(call), 2 * x.nbytes
    shape = (batch, length, channels)
    return Timed(
        "causal_conv1d",
        f"B,L,D=({batch},{length},{channels}) K={TAPS} silu",
        ours,
        bench.rates.floor(moved),
        theirs,
        f"{moved / ours / 1e6:.2f} TB/s",
        WANTED.get(shape),
    )
