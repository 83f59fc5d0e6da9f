"""SsdScan beside mamba_ssm's scan in chunks and, for one token, its update; with D, gate, dt bias and both states."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from seqexport.plugins.ops import ssd_scan
from seqexport.runtimes.benchmarks import peers
from seqexport.runtimes.benchmarks.kernels.bench import Bench, bf16, poisoned, require_near
from seqexport.runtimes.benchmarks.kernels.report import Timed, Wanted
from seqexport.runtimes.benchmarks.kernels.timing import MORE_THAN_L2, Call, microseconds, microseconds_in_graph

WANTED = {
    (8, 2048, 80, 64, 128, 1): Wanted(265),
    (1, 65536, 80, 64, 128, 1): Wanted(1150),
    (1, 2048, 24, 64, 128, 1): Wanted(60),
    (1, 2048, 80, 64, 128, 1): Wanted(80),
    (1, 2048, 128, 64, 128, 8): Wanted(110),
    (1, 2048, 24, 80, 128, 1): Wanted(75),
    (64, 1, 80, 64, 128, 1): Wanted(95),
    (1, 1, 80, 64, 128, 1): Wanted(2.6),
}
"""By batch, tokens, heads, head size, states and groups; microseconds."""

PEER_CHUNKS = (64, 128, 256)
CHUNK = 128
"""Tokens of a chunk whose operations are counted."""

CHECKED_TOKENS = 512


def measure(bench: Bench, batch: int, length: int, heads: int, head_size: int, states: int, groups: int) -> Timed:
    x, z = (bf16(batch, length, heads, head_size) for _ in range(2))
    B, C = (bf16(batch, length, groups, states) for _ in range(2))
    dt, y = bf16(batch, length, heads), poisoned(batch, length, heads, head_size)
    A = -torch.rand(heads, device="cuda") * 8 - 0.1
    D, bias = torch.randn(heads, device="cuda"), torch.randn(heads, device="cuda") - 3
    past = torch.randn(batch, heads, head_size, states, device="cuda")

    def ours(past: Tensor, present: Tensor) -> Call:
        return bench.call("ssd_scan", x, dt, A, B, C, D, z, bias, past, None, y, present, True)

    call = ours(past, torch.empty_like(past))
    call()
    first = [t[:1, :CHECKED_TOKENS].double() for t in (x, dt, B, C, z)]
    _check(*first, *(t.double() for t in (A, D, bias, past[:1], y[:1, :CHECKED_TOKENS])))
    peer, theirs = peers.ssd_scan(x, dt, A, B, C, D, z, bias), {}
    if length == 1:
        pasts = [past.clone() for _ in range(max(2, -(-int(MORE_THAN_L2) // past.nbytes)))]
        us = microseconds_in_graph([ours(each, each) for each in pasts])
        if peer:
            theirs["mamba_ssm"] = microseconds_in_graph([functools.partial(peer, each) for each in pasts])
    else:
        us = microseconds(call)
        if peer:
            theirs["mamba_ssm"] = min(microseconds(functools.partial(peer, past, chunk), 20) for chunk in PEER_CHUNKS)
    chunk = min(length, CHUNK)
    operations = batch * length * (groups * chunk * states + heads * (chunk * head_size + 4 * head_size * states))
    moved = 3 * x.nbytes + dt.nbytes + 2 * B.nbytes + 2 * past.nbytes
    shape = (batch, length, heads, head_size, states, groups)
    return Timed(
        "ssd_scan",
        f"B,L,H,P,N,G={shape}",
        us,
        bench.rates.floor(moved, operations if length > 1 else 0),
        theirs,
        "in a graph" if length == 1 else f"{operations / us / 1e6:.0f} TFLOP/s",
        WANTED[shape],
    )


def _check(
    x: Tensor, dt: Tensor, B: Tensor, C: Tensor, z: Tensor, A: Tensor, D: Tensor, bias: Tensor, past: Tensor, y: Tensor
) -> None:
    true, _ = ssd_scan.reference(x, dt, A, B, C, D, z, bias, past, None, 1)
    require_near(y, true, 4e-3)
