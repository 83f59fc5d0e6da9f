"""Ways to write CausalConv1d in ONNX, whole: with its activation, its state and ragged rows, timed in ONNX Runtime.

    python -m seqexport.exporter.benchmarks.conv_bodies [--device cpu] [--rounds 40] [-o conv_bodies.json]

One layer of a model of 130 M parameters, batch 1. Each form is held to float64 before it is timed; the forms take
turns, and the least time of each counts. What was found on a CPU (conv_bodies.json): com.microsoft's
CausalConvWithState takes more than twice as long for a prompt as the Conv over an image of one row, which target
``ort`` has, and no less for one token. ONNX Runtime 1.32 computes opset 27's op by its definition; those with CUDA are
older, and do not read it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import msgspec
import onnx_ir as ir
import psutil
import torch

from seqexport.exporter.benchmarks.op_chains import BOUND, check, in_session
from seqexport.exporter.benchmarks.op_models import INPUTS, OPSET, PROMPT, THREADS, D, K, truth_of
from seqexport.exporter.passes import causal_conv_with_state, opset_27
from seqexport.exporter.passes.add_bodies import add_bodies
from seqexport.exporter.passes.functions import call_of, define
from seqexport.exporter.passes.ort import MICROSOFT, ORT_DOMAIN, lower_for_ort
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

OP = "CausalConv1d"


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--rounds", default=40, show_default=True, help="Turns that each form takes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("conv_bodies.json"), show_default=True)
def main(device: str, rounds: int, output: Path) -> None:
    from seqexport.runtimes.machine import this_machine
    from seqexport.runtimes.ort.cuda import preload
    from seqexport.runtimes.ort.runner import check_provider

    if device == "cuda":
        preload()
    check_provider(device)
    load = round(psutil.getloadavg()[0], 1)
    rows = []
    for dtype in (torch.float32, torch.float16):
        for length in (PROMPT, 1):
            for form, ms in _times(length, dtype, device, rounds).items():
                rows.append({"dtype": str(dtype).removeprefix("torch."), "tokens": length, "form": form, "ms": ms})
    _print(rows)
    setting = {"device": device, "D": D, "K": K, "batch": 1, "threads": THREADS, "rounds": rounds, "load before": load}
    write_json(output, {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "results": rows})


def _times(length: int, dtype: torch.dtype, device: str, rounds: int) -> dict[str, float]:
    """The least milliseconds of each form."""
    values, attributes = INPUTS[OP](length, dtype)
    truth = truth_of(OP, values, attributes)
    forms = FORMS if device == "cpu" else {form: FORMS[form] for form in FORMS if FORMS[form] is not _in_opset_27}
    chains = {form: in_session(OP, values, attributes, finish, 1, device) for form, finish in forms.items()}
    for chain in chains.values():
        check(chain, truth, BOUND[dtype])
    least = dict.fromkeys(chains, float("inf"))
    for _ in range(rounds):
        for form, chain in chains.items():
            start = perf_counter()
            chain.run()
            least[form] = min(least[form], (perf_counter() - start) * 1e3)
    return {form: round(ms, 3) for form, ms in least.items()}


def _by_microsoft(model: ir.Model) -> None:
    op = f"{MICROSOFT}.CausalConvWithState"
    bodies = [(node, causal_conv_with_state.body(node, call_of(node), op=op) or []) for node in model.graph]
    define(model, ORT_DOMAIN, bodies, {"": OPSET, MICROSOFT: 1})
    model.opset_imports[MICROSOFT] = 1


def _in_opset_27(model: ir.Model) -> None:
    model.opset_imports[""] = opset_27.OPSET
    add_bodies(model)


FORMS: dict[str, Callable[[ir.Model], None]] = {
    "function body": add_bodies,
    "target ort: Conv over an image of one row": lower_for_ort,
    "com.microsoft.CausalConvWithState": _by_microsoft,
    "CausalConvWithState of opset 27": _in_opset_27,
}


def _print(rows: list[dict[str, Any]]) -> None:
    table = FittedTable(title=f"CausalConv1d with SiLU, D = {D}, K = {K}, {THREADS} threads", title_justify="left")
    for name in ("dtype", "tokens", "form", "ms"):
        table.add_column(name, justify="right" if name in ("tokens", "ms") else "left")
    for row in rows:
        table.add_row(row["dtype"], str(row["tokens"]), row["form"], f"{row['ms']:.3f}")
    open_console().print(table)


if __name__ == "__main__":
    run(main)
