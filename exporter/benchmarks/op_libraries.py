"""Our ops in ONNX Runtime: the compiled library, the function bodies, and what the target ``ort`` lowers them to.

    python -m seqexport.exporter.benchmarks.op_libraries [--device cpu] [--rounds 5] [--lock FILE] [-o FILE]

Each op that these graphs have is a model of one node, batch 1, at the sizes of a model of 130 M parameters. Every form
is held to the op's reference in float64 before it is timed; the forms take turns, and the least time of each counts. On
CUDA a time is the slope between two chains of the node, beside that of the bare kernel (op_chains.py). Where another
form is faster than the library, the target ``ort`` should use that: register.cpp in plugins/onnxruntime,
exporter/passes/ort.

The file is written anew after each op. With --lock, each op waits until nobody else is timed on the GPU.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import onnxruntime as ort
import torch

from seqexport.exporter.benchmarks import op_chains
from seqexport.exporter.benchmarks.op_models import (
    HEAD_DIM,
    HEADS,
    INPUTS,
    PROMPT,
    THREADS,
    D,
    K,
    N,
    Values,
    truth_of,
)
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.ort import lower_for_ort
from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.lock import alone
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

WANTED = {"SelectiveScan": {"function body": 8.0, "transformers, eager": 25.0}, "CausalAttention": {"target ort": 1.0}}
"""How many times faster than another form the library shall be at a prompt."""

Run = Callable[[], Any]


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True, help="Turns that each form takes.")
@click.option("--lock", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("op_libraries.json"), show_default=True)
def main(device: str, rounds: int, lock: Path | None, output: Path) -> None:
    from seqexport.runtimes.machine import this_machine
    from seqexport.runtimes.ort.cuda import preload
    from seqexport.runtimes.ort.runner import check_provider

    torch.set_num_threads(THREADS)
    if device == "cuda":
        preload()
        if not torch.cuda.is_available():
            raise UserError(f"--device cuda: PyTorch {torch.__version__} finds no GPU; use --device cpu")
    check_provider(device)
    for needed in ("onnxruntime", "kernels") if device == "cuda" else ("onnxruntime",):
        library.require(needed)
    setting = {"device": device, "batch": 1, "threads": THREADS, "D": D, "N": N, "K": K, "heads": HEADS,
               "head_dim": HEAD_DIM, "cached tokens at decode": PROMPT, "rounds": rounds}  # fmt: skip
    rows: list[dict[str, Any]] = []
    record = {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "wanted": WANTED, "results": rows}
    for dtype, length, name in itertools.product((torch.float32, torch.float16), (PROMPT, 1), INPUTS):
        with alone(lock) if lock else nullcontext():
            found = _row(name, length, dtype, device, rounds)
        rows.append({"op": name, "tokens": length, "dtype": str(dtype).removeprefix("torch."), **found})
        write_json(output, record)
        click.echo(json.dumps(rows[-1]), err=True)
    _print(rows, device)


def _row(name: str, length: int, dtype: torch.dtype, device: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of each form, and on CUDA why a form has none."""
    if device == "cpu":
        return {"ms": _times(name, length, dtype, rounds)}
    times, failed = op_chains.times(name, length, dtype, rounds)
    return {"ms": times, "failed": failed}


def _times(name: str, length: int, dtype: torch.dtype, rounds: int) -> dict[str, float]:
    """The least milliseconds of each form that there is."""
    values, attributes = INPUTS[name](length, dtype)
    truth = truth_of(name, values, attributes)
    session = functools.partial(op_chains.in_session, name, values, attributes, repeats=1, device="cpu")
    chains = {
        "library": session(finish=add_bodies, with_library=True),
        "function body": session(finish=add_bodies),
        "target ort": session(finish=lower_for_ort),
    }
    for chain in chains.values():
        op_chains.check(chain, truth, op_chains.BOUND[dtype])
    forms: dict[str, Run] = {form: chain.run for form, chain in chains.items()}
    if name == "SelectiveScan" and (length, dtype) == (PROMPT, torch.float32):
        forms["transformers, eager"] = _eager_scan(values)
    least = dict.fromkeys(forms, float("inf"))
    for _ in range(rounds):
        for form, once in forms.items():
            start = perf_counter()
            once()
            least[form] = min(least[form], (perf_counter() - start) * 1e3)
    return {form: round(ms, 3) for form, ms in least.items()}


def _eager_scan(v: Values) -> Run:
    """The scan as transformers runs it where its CUDA kernels do not; it starts from an empty state."""
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan

    x, dt, z = (v[k].transpose(1, 2) for k in ("x", "dt", "z"))
    B, C = (v[k][:, :, 0].transpose(1, 2) for k in ("B", "C"))

    @torch.no_grad()
    def run() -> Any:
        return mamba_selective_scan(
            x, dt, v["A"], B, C, v["D"], z, v["dt_bias"], delta_softplus=True, return_last_state=True
        )

    return run


def _print(rows: list[dict[str, Any]], device: str) -> None:
    forms = list(dict.fromkeys(form for row in rows for form in row["ms"]))
    unit, scale, digits = ("ms", 1, 3) if device == "cpu" else ("us", 1e3, 1)
    on = f"on the CPU, {THREADS} threads" if device == "cpu" else f"on {torch.cuda.get_device_name()}, of one node"
    table = FittedTable(title=f"{unit} in ONNX Runtime {ort.__version__} {on}", title_justify="left")
    for name in ("op", "tokens", "dtype", *forms):
        table.add_column(name, justify="left" if name in ("op", "dtype") else "right")
    for row in rows:
        cells = (f"{row['ms'][form] * scale:.{digits}f}" if form in row["ms"] else "" for form in forms)
        table.add_row(row["op"], str(row["tokens"]), row["dtype"], *cells)
    console = open_console()
    console.print(table)
    for row in rows:
        for form, reason in row.get("failed", {}).items():
            console.print(f"{row['op']}, {row['tokens']} tokens, {row['dtype']}, {form}: {reason}", markup=False)


if __name__ == "__main__":
    run(main)
