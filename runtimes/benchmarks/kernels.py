"""Times the CUDA kernels beside the best of what else is installed, after checking each result against float64.

    python -m seqexport.runtimes.benchmarks.kernels [--library libseqexport_kernels.so] [--json kernels.json]

Times are CUDA events around one call, warm, L2 cleared before each, median. `floor` is what the hardware allows:
special-function units for the scan, a device copy's bandwidth (measured here) for convolution and decode, a large
matrix product's rate (measured here) for prefill, in float32 that of the FMA units. `measure` says what `target`, the
least that is wanted, is of.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.util
import statistics
from pathlib import Path
from time import perf_counter

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from seqexport.plugins import library
from seqexport.plugins.kernels.c_api import Kernels
from seqexport.runtimes.output import write_json

SPECIAL_FUNCTIONS_PER_CLOCK, FLOAT32_FMAS_PER_CLOCK = 16, 128  # of one SM
BF16 = torch.bfloat16
SCAN = ("times the speed of mamba_ssm", 1.3, ("mamba_ssm",))
PREFILL = ("times the speed of the better of cuDNN and flash", 0.5, ("SDPA cudnn", "SDPA flash"))
WANTED = {
    ("causal_conv1d", "B,L,D=(8,2048,5120) K=4 silu"): ("times the speed of a device copy", 0.9, ("torch copy",)),
    ("selective_scan", "B,L,D=(1,2048,1536) N=16"): SCAN,
    ("selective_scan", "B,L,D=(8,2048,5120) N=16"): SCAN,
    ("selective_scan", "B,L,D=(1,65536,5120) N=16"): SCAN,
    ("causal_attention", "B,Hq,Hkv,L=(1,32,32,2048) past=0 Dh=64 bfloat16"): PREFILL,
    ("causal_attention", "B,Hq,Hkv,L=(8,32,32,2048) past=0 Dh=128 bfloat16"): PREFILL,
    ("causal_attention", "B,Hq,Hkv,L=(1,32,8,1) past=32767 Dh=64 bfloat16"): ("of copy bandwidth", 0.65, ("floor",)),
}
"""What is compared at a shape, the least that is wanted, and with the fastest of what."""


MORE_THAN_L2 = 150e6
"""Bytes."""


def microseconds(call, repeats: int = 50) -> float:
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


def microseconds_in_graph(calls, rounds: int = 10) -> float:
    """Of one call, in a CUDA graph that makes them in turn; for calls whose inputs together exceed the L2 cache."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls * rounds:
            call()
    return microseconds(graph.replay, 5) / (len(calls) * rounds)


def clock_during(call, seconds: float = 0.4) -> float:
    """Hz of the SMs while ``call`` runs again and again: at rest they tick at a fraction of it (345 MHz on an H200)."""
    readings, end = [], perf_counter() + seconds
    while perf_counter() < end:
        for _ in range(20):
            call()
        readings.append(torch.cuda.clock_rate())
        torch.cuda.synchronize()
    return statistics.median(readings[len(readings) // 2 :]) * 1e6


def bf16(*shape, scale=1.0):
    return (torch.randn(*shape, device="cuda") * scale).to(BF16)


def require_near(name: str, ours, true, bound: float) -> None:
    error = ((ours.double() - true.double()).norm() / true.double().norm()).item()
    if not error <= bound:
        raise SystemExit(f"{name}: error {error:.2e} against float64, above {bound:.0e}; not timed")


class Benchmark:
    def __init__(self, kernels):
        self.kernels, self.rows, self.buffers = kernels, [], []
        self.sms = torch.cuda.get_device_properties(0).multi_processor_count
        source, target = (
            torch.empty(1 << 30, dtype=torch.uint8, device="cuda"),
            torch.empty(1 << 30, dtype=torch.uint8, device="cuda"),
        )
        self.copy_rate = 2 * 2**30 / microseconds(lambda: target.copy_(source), 20) * 1e6
        a = bf16(8192, 8192)
        self.matrix_rate = 2 * 8192**3 / microseconds(lambda: a @ a, 10) * 1e6

    def add(self, op, shape, ours, floor, peers, note=""):
        best = min(peers.items(), key=lambda item: item[1], default=("", None))
        self.buffers.clear()
        measure, target, names = WANTED.get((op, shape), (None, None, ()))
        theirs = [{**peers, "floor": floor}[name] for name in names if name in peers or name == "floor"]
        row = {"op": op, "shape": shape, "ours_us": ours, "floor_us": floor, "peer": best[0], "peer_us": best[1],
               "peers_us": peers, "note": note, "measure": measure, "target": target,
               "measured": min(theirs) / ours if theirs else None}  # fmt: skip
        self.rows.append(row)
        peer = f"{best[1]:9.1f} {best[0]}" if peers else ""
        print(f"{op:18s} {shape:44s} {ours:9.1f} {floor:9.1f} {floor / ours:6.0%}  {peer} {note}", flush=True)

    def launch(self, op, params):
        size = self.kernels.workspace(op, params)
        if size:
            self.buffers.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
            params.workspace, params.workspace_bytes = self.buffers[-1].data_ptr(), size
        return lambda: self.kernels.call(op, params, torch.cuda.current_stream().cuda_stream)

    def conv(self, batch, length, channels, taps=4):
        x, weight, bias = bf16(batch, length, channels), bf16(channels, taps, scale=0.5), bf16(channels)
        past, y = (
            bf16(batch, channels, taps - 1),
            torch.full((batch, length, channels), float("nan"), device="cuda", dtype=BF16),
        )
        present = past.clone()
        call = self.launch(
            "causal_conv1d", self.kernels.params("causal_conv1d", x, weight, bias, past, None, y, present, "silu")
        )
        call()
        xx = torch.cat([past[:1].transpose(1, 2), x[:1]], 1).double()
        true = sum(xx[:, j : j + length] * weight.double()[:, j] for j in range(taps)) + bias.double()
        require_near("causal_conv1d", y[:1], torch.nn.functional.silu(true), 4e-3)
        peers = {"torch copy": microseconds(lambda: y.copy_(x))}
        if importlib.util.find_spec("causal_conv1d"):
            from causal_conv1d import causal_conv1d_fn

            rows = x.transpose(1, 2)
            peers["causal_conv1d"] = microseconds(lambda: causal_conv1d_fn(rows, weight, bias, activation="silu"))
        ours = microseconds(call)
        moved = 2 * x.numel() * 2
        self.add("causal_conv1d", f"B,L,D=({batch},{length},{channels}) K={taps} silu", ours,
                 moved / self.copy_rate * 1e6, peers, f"{moved / ours / 1e6:.2f} TB/s")  # fmt: skip

    def scan(self, batch, length, channels, states=16, chunks=0):
        x, dt, z = (bf16(batch, length, channels) for _ in range(3))
        B, C = bf16(batch, length, 1, states), bf16(batch, length, 1, states)
        A = -torch.exp(torch.rand(channels, states, device="cuda") * 2.7)
        D, bias = torch.randn(channels, device="cuda"), torch.randn(channels, device="cuda") - 3
        past = torch.randn(batch, channels, states, device="cuda")
        present, y = torch.empty_like(past), torch.full_like(x, float("nan"))
        call = self.launch(
            "selective_scan",
            self.kernels.params("selective_scan", x, dt, A, B, C, D, z, bias, past, None, y, present, True, chunks),
        )
        call()
        self.check_scan(x, dt, A, B, C, D, z, bias, past, y)
        peers = {}
        if importlib.util.find_spec("mamba_ssm"):
            from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

            xt, dtt, zt = (t.transpose(1, 2).contiguous() for t in (x, dt, z))
            Bt, Ct = (t[:, :, 0].transpose(1, 2).contiguous() for t in (B, C))
            peers["mamba_ssm"] = microseconds(
                lambda: selective_scan_fn(xt, dtt, A, Bt, Ct, D, zt, bias, delta_softplus=True, return_last_state=True)
            )
        ours = microseconds(call, 50 if x.numel() < 1e8 else 20)
        work = x.numel() * (states + 4)
        if length == 1:
            floor = 2 * past.numel() * 4 / self.copy_rate * 1e6
        else:
            floor = work / (SPECIAL_FUNCTIONS_PER_CLOCK * self.sms * clock_during(call)) * 1e6
        self.add(
            "selective_scan",
            f"B,L,D=({batch},{length},{channels}) N={states}" + (f" chunks={chunks}" if chunks else ""),
            ours,
            floor,
            peers,
        )

    def check_scan(self, x, dt, A, B, C, D, z, bias, past, y, tokens=1024, channels=64):
        x, dt, z, y = (t[:1, :tokens, -channels:].double() for t in (x, dt, z, y))
        A, D, bias, h = (
            A[-channels:].double(),
            D[-channels:].double(),
            bias[-channels:].double(),
            past[:1, -channels:].double(),
        )
        delta = torch.nn.functional.softplus(dt + bias)
        ys = []
        for t in range(x.shape[1]):
            h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * x[:, t])[..., None] * B[:1, t].double()
            ys.append((h * C[:1, t].double()).sum(-1))
        true = (torch.stack(ys, 1) + D * x) * torch.nn.functional.silu(z)
        require_near("selective_scan", y, true, 4e-3)

    def attention(self, batch, query_heads, kv_heads, length, past, dim, dtype=BF16):
        query, key, value = (
            torch.randn(batch, length, h, dim, device="cuda").to(dtype) for h in (query_heads, kv_heads, kv_heads)
        )
        cache = [torch.randn(batch, kv_heads, past + length, dim, device="cuda").to(dtype) for _ in range(2)]
        past_lens = torch.full((batch,), past, dtype=torch.int32, device="cuda")
        y = torch.full_like(query, float("nan"))
        call = self.launch(
            "causal_attention",
            self.kernels.params("causal_attention", query, key, value, *cache, past_lens, None, y, *cache),
        )
        call()
        q, (k, v) = query.transpose(1, 2), cache
        mask = torch.ones(length, past + length, dtype=torch.bool, device="cuda").tril(past)
        head = query_heads - 1
        prob = ((q[-1, head].double() @ k[-1, -1].double().T) * dim**-0.5).masked_fill(~mask, float("-inf")).softmax(-1)
        require_near(
            "causal_attention",
            y[-1, :, head],
            prob @ v[-1, -1].double(),
            1e-6 if dtype == torch.float32 else 8e-3,
        )
        peers = {}
        for backend in (
            SDPBackend.CUDNN_ATTENTION,
            SDPBackend.FLASH_ATTENTION,
            SDPBackend.EFFICIENT_ATTENTION,
        ):
            options = {"is_causal": length > 1, "enable_gqa": query_heads != kv_heads}
            try:
                with sdpa_kernel(backend):
                    call_sdpa = functools.partial(torch.nn.functional.scaled_dot_product_attention, q, k, v, **options)
                    peers[f"SDPA {backend.name.split('_')[0].lower()}"] = microseconds(call_sdpa, 20)
            except RuntimeError:
                pass
        ours = microseconds(call)
        pairs = batch * query_heads * (length * past + length * (length + 1) // 2)
        moved = 2 * batch * kv_heads * (past + length) * dim * query.element_size()
        rate = self.matrix_rate
        if dtype == torch.float32:
            rate = 2 * FLOAT32_FMAS_PER_CLOCK * self.sms * clock_during(call)
        floor = max(4 * pairs * dim / rate, moved / self.copy_rate) * 1e6
        note = f"{4 * pairs * dim / ours / 1e6:.0f} TFLOP/s"
        if length == 1:
            caches = [cache, *([torch.randn_like(c) for c in cache] for _ in range(2))]
            calls = [
                self.kernels.params("causal_attention", query, key, value, *c, past_lens, None, y, *c) for c in caches
            ]
            in_graph = microseconds_in_graph([self.launch("causal_attention", call) for call in calls])
            note = f"{moved / ours / 1e6:.2f} TB/s; in a graph {in_graph:.1f} us, {moved / in_graph / 1e6:.2f} TB/s"
        name = str(dtype).removeprefix("torch.")
        shape = f"B,Hq,Hkv,L=({batch},{query_heads},{kv_heads},{length}) past={past} Dh={dim} {name}"
        self.add("causal_attention", shape, ours, floor, peers, note)

    def linear(self, rows, K, features):
        sets = max(2, -(-int(MORE_THAN_L2) // (2 * K * sum(features)))) if rows == 1 else 2
        x = bf16(rows, K)
        weights = [[bf16(N, K, scale=K**-0.5) for N in features] for _ in range(sets)]
        outputs = [torch.full((rows, N), float("nan"), device="cuda", dtype=BF16) for N in features]
        named = dict(zip(("y", "y1", "y2"), outputs, strict=False))
        call = [
            self.launch(
                "linear",
                self.kernels.params(
                    "linear", x, **dict(zip(("weight", "weight1", "weight2"), w, strict=False)), **named
                ),
            )
            for w in weights
        ]
        call[0]()
        for y, weight in zip(outputs, weights[0], strict=True):
            require_near("linear", y, x.double() @ weight.double().T, 4e-3)
        joined = [torch.cat(w) for w in weights]
        theirs = [functools.partial(torch.nn.functional.linear, x, weight) for weight in joined]
        rounds = 1 + 100 // sets
        ours, peer = (microseconds_in_graph(calls, rounds) for calls in (call, theirs))
        moved, operations = 2 * K * sum(features), 2 * rows * K * sum(features)
        floor = max(operations / self.matrix_rate, moved / self.copy_rate) * 1e6
        shape = f"M,K=({rows},{K}) N={'+'.join(map(str, features))} bfloat16"
        note = f"{moved / ours / 1e6:.2f} TB/s" if rows < 64 else f"{operations / ours / 1e6:.0f} TFLOP/s"
        self.add("linear", shape, ours, floor, {"torch": peer}, note)

    def experts(self, rows, D, E, k, F):
        """Of few tokens, calls in turn choose other experts, so that their weights come from memory."""
        gate_up, down = bf16(E, 2 * F, D, scale=D**-0.5), bf16(E, D, F, scale=F**-0.5)
        x, weight = bf16(rows, D), torch.rand(rows, k, device="cuda")
        chosen = [torch.rand(rows, E, device="cuda").topk(k).indices.int() for _ in range(16 if rows <= 64 else 1)]
        y = torch.full((rows, D), float("nan"), device="cuda", dtype=BF16)
        inputs = [(x, each, weight, gate_up, down) for each in chosen]
        call = [self.launch("experts", self.kernels.params("experts", *each, None, None, y)) for each in inputs]
        call[0]()
        require_near("experts", y, grouped(x.double(), chosen[0], weight, gate_up, down), 1e-2)
        calls = {"ours": call, "torch grouped_mm": [functools.partial(grouped, *each) for each in inputs]}
        if rows * k <= 64:
            calls["torch bmm"] = [functools.partial(batched, *each) for each in inputs]
        rounds = 1 if rows > 64 else 4
        times = {name: microseconds_in_graph(each, rounds) for name, each in calls.items()}
        ours = times.pop("ours")
        active = statistics.mean(len(each.unique()) for each in chosen)
        moved, operations = 2 * active * 3 * D * F, 2 * rows * k * 3 * D * F
        floor = max(operations / self.matrix_rate, moved / self.copy_rate) * 1e6
        note = f"{moved / ours / 1e6:.2f} TB/s, {operations / ours / 1e6:.0f} TFLOP/s"
        self.add("experts", f"M,D=({rows},{D}) E={E} k={k} F={F} bfloat16", ours, floor, times, note)


def grouped(x, chosen, weight, gate_up, down):
    """Gated experts as transformers' ``grouped_mm`` has them; in float64 one expert after another."""
    pairs, order = chosen.flatten().sort()
    counts = torch.histc(pairs, bins=len(down), min=0, max=len(down) - 1)
    rows, ends = x[order // chosen.shape[1]], counts.cumsum(0, dtype=torch.int32)

    def product(rows, weights):
        if rows.dtype != torch.float64:
            return torch.nn.functional.grouped_mm(rows, weights.mT, offs=ends)
        parts = rows.tensor_split(ends[:-1].long().cpu())
        return torch.cat([part @ w.double().T for part, w in zip(parts, weights, strict=True)])

    gate, up = product(rows, gate_up).chunk(2, -1)
    out = product(torch.nn.functional.silu(gate) * up, down) * weight.flatten()[order, None]
    back = torch.empty_like(out)
    back[order] = out
    return back.view(*chosen.shape, -1).sum(1).to(x.dtype)


def batched(x, chosen, weight, gate_up, down):
    """The same as transformers' ``batched_mm`` has them: the chosen experts' weights are gathered first."""
    pairs = chosen.flatten()
    gate, up = torch.bmm(gate_up[pairs], x.repeat_interleave(chosen.shape[1], 0)[..., None]).chunk(2, 1)
    out = torch.bmm(down[pairs], torch.nn.functional.silu(gate) * up).squeeze(-1) * weight.flatten()[:, None]
    return out.view(*chosen.shape, -1).sum(1).to(x.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", help="libseqexport_kernels.so; default: the one that was built")
    parser.add_argument("--json", help="write the table here as well")
    parser.add_argument("--only", default="", help="ops to time, by a part of their name")
    options = parser.parse_args()
    torch.manual_seed(0)
    bench = Benchmark(Kernels(options.library or str(library.require("kernels").path)))
    print(f"{torch.cuda.get_device_name()}: copy {bench.copy_rate / 1e12:.2f} TB/s, matrix product "
          f"{bench.matrix_rate / 1e12:.0f} TFLOP/s")  # fmt: skip
    print(f"{'op':18s} {'shape':44s} {'ours us':>9s} {'floor us':>9s}  floor/ours  peer us")
    if options.only in "causal_conv1d":
        for shape in ((8, 2048, 5120), (8, 2048, 1536), (1, 2048, 1536), (1, 1, 5120), (64, 1, 5120)):
            bench.conv(*shape)
    if options.only in "selective_scan":
        for shape in (
            (1, 2048, 1536),
            (8, 2048, 1536),
            (8, 2048, 5120),
            (1, 16384, 1536),
            (1, 65536, 5120),
            (1, 1, 5120),
            (64, 1, 5120),
        ):
            bench.scan(*shape)
    if options.only in "causal_attention":
        bench.attention(1, 32, 32, 2048, 0, 64)
        bench.attention(8, 32, 32, 2048, 0, 128)
        bench.attention(1, 32, 8, 1, 32767, 64)
        bench.attention(16, 32, 8, 1, 4095, 128)
        bench.attention(1, 32, 32, 2048, 0, 64, torch.float32)
    if options.only in "linear":
        for rows in (1, 4):
            bench.linear(rows, 768, (1536, 1536))
            bench.linear(rows, 1536, (48, 16, 16))
            bench.linear(rows, 1536, (768,))
            bench.linear(rows, 2048, (4096, 4096))
            bench.linear(rows, 7168, (2048,))
            bench.linear(rows, 768, (50280,))
        bench.linear(2048, 2048, (2048, 512, 512))
        bench.linear(2048, 7168, (2048,))
    if options.only in "experts":
        for rows in (1, 4, 8, 32, 2048):
            bench.experts(rows, 2048, 128, 8, 768)  # Qwen3-30B-A3B
        for rows in (1, 512):
            bench.experts(rows, 4096, 8, 2, 14336)  # Mixtral
    if options.json:
        report = {
            "device": torch.cuda.get_device_name(),
            "date": datetime.date.today().isoformat(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "copy_bytes_per_s": bench.copy_rate,
            "matrix_flop_per_s": bench.matrix_rate,
            "method": "CUDA events, warm, L2 cleared, median",
            "rows": bench.rows,
        }
        write_json(Path(options.json), report)


if __name__ == "__main__":
    main()
