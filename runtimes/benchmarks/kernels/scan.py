"""SelectiveScan beside mamba_ssm's."""

from __future__ import annotations

import torch
from torch import Tensor

from seqexport.plugins.ops import selective_scan
from seqexport.runtimes.benchmarks import peers
from seqexport.runtimes.benchmarks.kernels.bench import Bench, bf16, poisoned, require_near
from seqexport.runtimes.benchmarks.kernels.report import Timed, Wanted
from seqexport.runtimes.benchmarks.kernels.timing import microseconds

STATES = 16
FASTER = Wanted(1.3, "times the speed of mamba_ssm", ("mamba_ssm",))
WANTED = {(1, 2048, 1536): FASTER, (8, 2048, 5120): FASTER, (1, 65536, 5120): FASTER}
CHECKED_TOKENS, CHECKED_CHANNELS = 1024, 64


def measure(bench: Bench, batch: int, length: int, channels: int) -> Timed:
    x, dt, z = (bf16(batch, length, channels) for _ in range(3))
    B, C = (bf16(batch, length, 1, STATES) for _ in range(2))
    A = -torch.exp(torch.rand(channels, STATES, device="cuda") * 2.7)
    D, bias = torch.randn(channels, device="cuda"), torch.randn(channels, device="cuda") - 3
    past = torch.randn(batch, channels, STATES, device="cuda")
    y = poisoned(batch, length, channels)
    call = bench.call("selective_scan", x, dt, A, B, C, D, z, bias, past, None, y, torch.empty_like(past), True, 0)
    call()
    _check(x, dt, A, B, C, D, z, bias, past, y)
    peer = peers.selective_scan(x, dt, A, B, C, D, z, bias)
    ours = microseconds(call, 50 if x.numel() < 1e8 else 20)
    if length == 1:
        floor = bench.rates.floor(2 * past.nbytes)
    else:
        floor = bench.special_function_floor(x.numel() * (STATES + 4), call)
    theirs = {"mamba_ssm": microseconds(peer)} if peer else {}
    shape, said = (batch, length, channels), f"B,L,D=({batch},{length},{channels}) N={STATES}"
    return Timed("selective_scan", said, ours, floor, theirs, wanted=WANTED.get(shape))


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    bias: Tensor,
    past: Tensor,
    y: Tensor,
) -> None:
    """The first tokens of the last channels."""
    x, dt, z, y = (t[:1, :CHECKED_TOKENS, -CHECKED_CHANNELS:].double() for t in (x, dt, z, y))
    A, D, bias = (t[-CHECKED_CHANNELS:].double() for t in (A, D, bias))
    B, C = (t[:1, :CHECKED_TOKENS].double() for t in (B, C))
    past = past[:1, -CHECKED_CHANNELS:].double()
    true, _ = selective_scan.reference(x, dt, A, B, C, D, z, bias, past, None, 1)
    require_near(y, true, 4e-3)
