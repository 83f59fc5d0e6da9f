"""Experts beside what transformers makes of PyTorch, in a CUDA graph.

Of few tokens, calls in turn choose other experts, so that their weights come from memory.
"""

from __future__ import annotations

import functools
import statistics

import torch
from torch import Tensor

from seqexport.runtimes.benchmarks.kernels.bench import Bench, bf16, poisoned, require_near
from seqexport.runtimes.benchmarks.kernels.report import Timed
from seqexport.runtimes.benchmarks.kernels.timing import Call, microseconds_in_graph

FEW = 64


def measure(bench: Bench, tokens: int, width: int, experts: int, k: int, features: int) -> Timed:
    gate_up = bf16(experts, 2 * features, width, scale=width**-0.5)
    down = bf16(experts, width, features, scale=features**-0.5)
    x, weight = bf16(tokens, width), torch.rand(tokens, k, device="cuda")
    choices = 16 if tokens <= FEW else 1
    chosen = [torch.rand(tokens, experts, device="cuda").topk(k).indices.int() for _ in range(choices)]
    y = poisoned(tokens, width)
    inputs = [(x, each, weight, gate_up, down) for each in chosen]
    calls = [bench.call("experts", *each, None, None, y) for each in inputs]
    calls[0]()
    require_near(y, grouped(x.double(), chosen[0], weight, gate_up, down), 1e-2)
    named: dict[str, list[Call]] = {"torch grouped_mm": [functools.partial(grouped, *each) for each in inputs]}
    if tokens * k <= FEW:
        named["torch bmm"] = [functools.partial(batched, *each) for each in inputs]
    rounds = 1 if tokens > FEW else 4
    us = microseconds_in_graph(calls, rounds)
    theirs = {name: microseconds_in_graph(each, rounds) for name, each in named.items()}
    active = statistics.mean(len(each.unique()) for each in chosen)
    moved, operations = 2 * active * 3 * width * features, 2 * tokens * k * 3 * width * features
    note = f"{moved / us / 1e6:.2f} TB/s, {operations / us / 1e6:.0f} TFLOP/s"
    shape = f"M,D=({tokens},{width}) E={experts} k={k} F={features} bfloat16"
    return Timed("experts", shape, us, bench.rates.floor(moved, operations), theirs, note)


def grouped(x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Gated experts as transformers' ``grouped_mm`` has them; in float64 one expert after another.

    Args:
        x: [tokens, D].
        chosen, weight: [tokens, k].
        gate_up: [E, 2F, D]; down: [E, D, F].
    """
    pairs, order = chosen.flatten().sort()
    counts = torch.histc(pairs if pairs.is_cuda else pairs.float(), bins=len(down), min=0, max=len(down) - 1)
    rows, ends = x[order // chosen.shape[1]], counts.cumsum(0, dtype=torch.int32)

    def product(rows: Tensor, weights: Tensor) -> Tensor:
        if rows.dtype != torch.float64:
            return torch.nn.functional.grouped_mm(rows, weights.mT, offs=ends)
        parts = rows.tensor_split(ends[:-1].long().cpu())
        return torch.cat([part @ w.double().T for part, w in zip(parts, weights, strict=True)])

    gate, up = product(rows, gate_up).chunk(2, -1)
    out = product(torch.nn.functional.silu(gate) * up, down) * weight.flatten()[order, None]
    back = torch.empty_like(out)
    back[order] = out
    return back.view(*chosen.shape, -1).sum(1).to(x.dtype)


def batched(x: Tensor, chosen: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The same as transformers' ``batched_mm`` has them: the chosen experts' weights are gathered first."""
    pairs = chosen.flatten()
    gate, up = torch.bmm(gate_up[pairs], x.repeat_interleave(chosen.shape[1], 0)[..., None]).chunk(2, 1)
    out = torch.bmm(down[pairs], torch.nn.functional.silu(gate) * up).squeeze(-1) * weight.flatten()[:, None]
    return out.view(*chosen.shape, -1).sum(1).to(x.dtype)
