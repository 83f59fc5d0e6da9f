"""Ways to write SsdScan in ONNX, timed on ONNX Runtime's CPU: one layer of a 130 M Mamba-2.

    python -m seqexport.exporter.benchmarks.ssd_bodies [-o ssd_bodies.json]

Each form is checked against float64 before it is timed. What was found: chunks with matrix products are several times
as fast as one token a step, and no slower for a single token; 32 to 64 tokens make a good chunk. LinearAttention of
com.microsoft is faster still, its transposes included: that is what target ``ort`` uses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import onnx_ir as ir
import torch

from seqexport.exporter.benchmarks.op_bodies import THREADS, milliseconds
from seqexport.exporter.passes.functions import define
from seqexport.exporter.passes.ort import LOWERINGS, MICROSOFT
from seqexport.plugins.ops import DOMAIN, OPS, Call
from seqexport.plugins.ops.ssd_scan_body import body, constants, delta, entering, finished
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable, open_console

H, P, N, REPEATS = 24, 64, 128, 9
LENGTHS, OPSET = (1, 16, 64, 500, 2048), 20
OP = OPS["SsdScan"]
Form = Callable[[ir.Node, Call], list[str]]
BOUND = {torch.float32: 5e-7, torch.float16: 1e-3}


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("ssd_bodies.json"), show_default=True)
def main(output: Path) -> None:
    from seqexport.runtimes.machine import this_machine

    rows = []
    for dtype in (torch.float32, torch.float16):
        for length in LENGTHS:
            values = _inputs(length, dtype)
            truth = OP.reference(**{k: v.double() for k, v in values.items()}, z=None, seq_lens=None, dt_softplus=1)[0]
            for name, form in FORMS.items():
                ms = _time(form, values, truth.numpy(), BOUND[dtype])
                rows.append({"dtype": str(dtype)[6:], "tokens": length, "form": name, "ms": ms})
    table = FittedTable(title=f"SsdScan, H = {H}, P = {P}, N = {N}, {THREADS} threads", title_justify="left")
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row.values()))
    open_console().print(table)
    setting = {"H": H, "P": P, "N": N, "batch": 1, "threads": THREADS, "repeats": REPEATS}
    write_json(output, {"machine": msgspec.to_builtins(this_machine()), "setting": setting, "results": rows})


def _inputs(length: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    rates, skip, bias = (torch.randn(H, generator=g) for _ in range(3))
    shapes = {"x": (1, length, H, P), "dt": (1, length, H), "B": (1, length, 1, N), "C": (1, length, 1, N)}
    values = {name: torch.randn(shape, generator=g).to(dtype) for name, shape in shapes.items()}
    past = torch.randn(1, H, P, N, generator=g)
    return values | {"A": -rates.exp(), "D": skip, "dt_bias": bias - 3, "past": past}


def _time(
    form: Callable[[ir.Node, Call], list[str]], values: dict[str, torch.Tensor], truth: Any, bound: float
) -> float:
    """Median milliseconds of a node with this body."""
    inputs = {name: _input(name, value) for name, value in values.items()}
    attributes = {**OP.attributes, "dt_softplus": 1}
    node = ir.node(OP.name, [inputs.get(name) for name in OP.input_names], attributes, domain=DOMAIN, num_outputs=2)
    for output, name, like in zip(node.outputs, OP.outputs, ("x", "past"), strict=True):
        output.name, output.type = name, inputs[like].type
    opsets = {"": OPSET, MICROSOFT: 1, DOMAIN: 1}
    model = ir.Model(
        ir.Graph([*inputs.values()], node.outputs, nodes=[node], opset_imports=opsets, name="g"), ir_version=10
    )
    define(model, DOMAIN, [(node, form(node, Call(frozenset(values), attributes)))], {"": OPSET, MICROSOFT: 1})
    feeds = {name: value.numpy() for name, value in values.items()}
    return milliseconds(ir.to_proto(model).SerializeToString(), feeds, truth, bound=bound, repeats=REPEATS)


def _input(name: str, value: torch.Tensor) -> ir.Value:
    kind = ir.TensorType(ir.DataType.from_numpy(value.numpy().dtype))
    return ir.Value(name=name, shape=ir.Shape(value.shape), type=kind)


def _by_token(node: ir.Node, call: Call) -> list[str]:
    """One Scan step a token, on a state [B,G,H/G,P,N]."""
    steps = {
        "decay": ("decays", 3, "G, rest, unit, unit"),
        "dx": ("dx", 4, "G, rest, P, unit"),
        "B": ("B_valid", 4, "G, unit, unit, N"),
        "C": ("C_wide", 4, "G, unit, N, unit"),
    }
    return [
        *constants(),
        *delta(call),
        *entering(call),
        "decays = Exp (exponents)",
        "state_shape = Concat <axis = 0> (batch, G, rest, P, N)",
        "past_groups = Reshape (past, state_shape)",
        *(line for name, (source, rank, sizes) in steps.items() for line in _steps(name, source, rank, sizes)),
        "last, y_steps = Scan <num_scan_inputs = 4, body = token (h, decay, step, b, c) => (h_next, out) {",
        "  kept = Mul (decay, h)",
        "  added = Mul (step, b)",
        "  h_next = Add (kept, added)",
        "  out = MatMul (h_next, c)",
        "}> (past_groups, decay_steps, dx_steps, B_steps, C_steps)",
        "present = Reshape (last, past_shape)",
        "y_shape = Concat <axis = 0> (L_, batch, rest, P)",
        "y_first = Reshape (y_steps, y_shape)",
        "y_scan = Transpose <perm = [1, 0, 2, 3]> (y_first)",
        *finished(call),
    ]


def _steps(name: str, source: str, rank: int, sizes: str) -> list[str]:
    """``<name>_steps`` [L,B,...] of a source [B,L,...]."""
    return [
        f"{name}_first = Transpose <perm = {[1, 0, *range(2, rank)]}> ({source})",
        f"{name}_shape = Concat <axis = 0> (L_, batch, {sizes})",
        f"{name}_steps = Reshape ({name}_first, {name}_shape)",
    ]


def _chunks(tokens: int, node: ir.Node, call: Call) -> list[str]:
    return body(call, tokens)


FORMS: dict[str, Form] = {
    "one token a step": _by_token,
    **{f"chunks of {tokens}": functools.partial(_chunks, tokens) for tokens in (16, 32, 64, 128)},
    "com.microsoft.LinearAttention": lambda node, call: LOWERINGS["SsdScan"](node, call) or [],
}


if __name__ == "__main__":
    run(main)
