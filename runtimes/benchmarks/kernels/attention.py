"""CausalAttention beside PyTorch's scaled dot products: cuDNN, flash and efficient attention."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from seqexport.runtimes.benchmarks.kernels.bench import Bench, poisoned, require_near
from seqexport.runtimes.benchmarks.kernels.report import Timed, Wanted
from seqexport.runtimes.benchmarks.kernels.timing import microseconds, microseconds_in_graph

CACHES = 3
"""Read in turn in a graph, so that none of them is in the L2 cache."""

BACKENDS = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
PREFILL = Wanted(0.5, "times the speed of the better of cuDNN and flash", ("SDPA cudnn", "SDPA flash"))
WANTED = {
    (1, 32, 32, 2048, 0, 64, torch.bfloat16): PREFILL,
    (8, 32, 32, 2048, 0, 128, torch.bfloat16): PREFILL,
    (1, 32, 8, 1, 32767, 64, torch.bfloat16): Wanted(0.65, "of copy bandwidth", ("floor",)),
}


def measure(
    bench: Bench,
    batch: int,
    query_heads: int,
    kv_heads: int,
    length: int,
    past: int,
    dim: int,
    dtype: torch.dtype = torch.bfloat16,
) -> Timed:
    query, key, value = (_random((batch, length, heads, dim), dtype) for heads in (query_heads, kv_heads, kv_heads))
    caches = [[_random((batch, kv_heads, past + length, dim), dtype) for _ in range(2)] for _ in range(CACHES)]
    past_lens = torch.full((batch,), past, dtype=torch.int32, device="cuda")
    y = poisoned(batch, length, query_heads, dim, dtype=dtype)
    calls = [bench.call("causal_attention", query, key, value, *each, past_lens, None, y, *each) for each in caches]
    call, (k, v) = calls[0], caches[0]
    call()
    _check(query, k, v, y, past, 1e-6 if dtype == torch.float32 else 8e-3)
    theirs = _peers(query.transpose(1, 2), k, v, causal=length > 1)
    ours = microseconds(call)
    operations = 4 * batch * query_heads * (length * past + length * (length + 1) // 2) * dim
    moved = 2 * batch * kv_heads * (past + length) * dim * query.element_size()
    floor = bench.rates.floor(moved, operations)
    if dtype == torch.float32:
        floor = max(bench.rates.floor(moved), bench.float32_floor(operations, call))
    note = f"{operations / ours / 1e6:.0f} TFLOP/s"
    if length == 1:
        in_graph = microseconds_in_graph(calls)
        note = f"{moved / ours / 1e6:.2f} TB/s; in a graph {in_graph:.1f} us, {moved / in_graph / 1e6:.2f} TB/s"
    name = str(dtype).removeprefix("torch.")
    said = f"B,Hq,Hkv,L=({batch},{query_heads},{kv_heads},{length}) past={past} Dh={dim} {name}"
    wanted = WANTED.get((batch, query_heads, kv_heads, length, past, dim, dtype))
    return Timed("causal_attention", said, ours, floor, theirs, note, wanted)


def _random(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device="cuda").to(dtype)


def _check(query: Tensor, k: Tensor, v: Tensor, y: Tensor, past: int, bound: float) -> None:
    """The last head of the last sequence."""
    mask = torch.ones(query.shape[1], k.shape[2], dtype=torch.bool, device="cuda").tril(past)
    scores = query[-1, :, -1].double() @ k[-1, -1].double().T * query.shape[-1] ** -0.5
    true = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v[-1, -1].double()
    require_near(y[-1, :, -1], true, bound)


def _peers(q: Tensor, k: Tensor, v: Tensor, *, causal: bool) -> dict[str, float]:
    found: dict[str, float] = {}
    product = functools.partial(
        torch.nn.functional.scaled_dot_product_attention, q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    for backend in BACKENDS:
        try:
            with sdpa_kernel(backend):
                found[f"SDPA {backend.name.split('_')[0].lower()}"] = microseconds(product, 20)
        except RuntimeError:  # not for these sizes
            continue
    return found
