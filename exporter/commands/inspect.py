"""``seqexport inspect``"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Group
from rich.markup import escape

from seqexport.exporter.commands.options import bundle_argument
from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.tables import FittedTable, open_console

if TYPE_CHECKING:
    from seqexport.runtimes.bundle import Bundle
    from seqexport.runtimes.manifest import Axis, LanguageModel, Manifest, Target

NO_ENGINES: dict[Target, str] = {
    "portable": "none; TensorRT 10 and newer build one with: seqexport build",
    "ort": "none: target ort is for ONNX Runtime alone",
    "tensorrt": "none; TensorRT builds one with: seqexport build",
}


@click.command("inspect", short_help="Show what a bundle is and holds.")
@bundle_argument
@click.option("--device", metavar="BOARD", help="Whether it fits this board, as orin-nano-8gb, and what to change.")
@click.option("--batch", type=click.IntRange(1), help="With --device: sequences at a time [default: 1].")
@click.option("--len", "length", type=click.IntRange(1), help="With --device: tokens of each [default: the capacity].")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest, or what --device tells, as JSON.")
def command(bundle: Path, device: str | None, batch: int | None, length: int | None, as_json: bool) -> None:
    """Show what BUNDLE is: the model, its inputs, outputs and states, its ops, its files. Checks every file's hash.

    With --device, the memory that it takes on a board, to run, to load and to build; exit code 1 if it does not fit.

    \b
    Examples:
      seqexport inspect my-model
      seqexport inspect my-model --device orin-nano-8gb --batch 1 --len 4096
    """
    import msgspec

    from seqexport.runtimes.bundle import open_bundle

    if device is None and (batch or length):
        raise UserError("--batch and --len go with --device: name a board")
    opened = open_bundle(bundle)
    if device is not None:
        sys.exit(0 if _fits(opened, device, batch or 1, length, as_json) else 1)
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(opened.manifest), indent=2))
    else:
        manifest = opened.manifest
        states = [] if not manifest.states else [_states(manifest) if manifest.language_model else _carried(manifest)]
        open_console().print(Group(_facts(opened), _interface(manifest), *states, _files(opened)))


def _fits(bundle: Bundle, device: str, batch: int, length: int | None, as_json: bool) -> bool:
    from seqexport.exporter.commands.fit_table import fit_table
    from seqexport.runtimes.fit.advice import fit_of
    from seqexport.runtimes.fit.boards import find_board
    from seqexport.runtimes.fit.estimate import as_builtins

    fit = fit_of(bundle, find_board(device), batch, length)
    if as_json:
        click.echo(json.dumps(as_builtins(fit), indent=2))
    else:
        open_console().print(fit_table(bundle, fit))
    return fit.fits("run")


def _facts(bundle: Bundle) -> FittedTable:
    from seqexport.runtimes.trt.record import engines_of

    c, clamped = bundle.manifest, bundle.manifest.source.clamped
    engines = "; ".join(f"{record.platform}, {record.date}" for record in engines_of(bundle))
    table = FittedTable(title=escape(str(bundle.path)), title_justify="left", show_header=False, box=None)
    ops = ", ".join(f"{count} {name}" for name, count in c.ops.items())
    capacity = "no limit: its states do not grow" if c.capacity is None else f"{c.capacity:,} tokens"
    for name, value in (
        (
            "model",
            f"{c.architecture} ({c.family or 'any module'}), {units.parameters(c.source.parameters)}, {c.dtype}",
        ),
        ("from", f"{c.source.model}, exported {c.source.date} by seqexport {c.source.seqexport}"),
        ("graph", f"target {c.target}, opset {c.opset}{_logits(c.language_model)}"),
        ("our ops", ops or "none"),
        *([] if c.language_model is None else [("capacity", capacity), ("vocabulary", _vocabulary(c.language_model))]),
        *([("clamped", f"set to the limit of {c.dtype} where beyond it: {', '.join(clamped)}")] if clamped else []),
        ("engines", engines or NO_ENGINES[c.target]),
    ):
        table.add_row(f"[dim]{name}[/]", escape(value))
    return table


def _logits(model: LanguageModel | None) -> str:
    return "" if model is None else f", logits of {'each sequence' if model.logits == 'last' else 'every token'}"


def _vocabulary(model: LanguageModel) -> str:
    return f"{model.vocab_size:,} tokens, end of text: {', '.join(map(str, model.eos_token_ids)) or 'none'}"


def _interface(manifest: Manifest) -> FittedTable:
    table = FittedTable(title="Inputs and outputs (states are listed below)", title_justify="left")
    for name in ("name", "dtype", "shape", "role"):
        table.add_column(name)
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.role not in ("past", "present"):
            table.add_row(escape(spec.name), spec.dtype, _shape(spec.shape), spec.role)
    return table


def _shape(shape: Sequence[Axis]) -> str:
    return escape(f"[{', '.join(map(str, shape))}]")


def _states(manifest: Manifest) -> FittedTable:
    table = FittedTable(
        title="States: past_key_values.<layer>.<state> in, present.<layer>.<state> out", title_justify="left"
    )
    for name in ("state", "layers", "dtype", "shape", "grows"):
        table.add_column(name)
    kinds: dict[Any, list[int]] = {}
    for spec in manifest.states:
        kinds.setdefault((spec.kind, spec.dtype, spec.shape, spec.grows), []).append(spec.layer)
    for (kind, dtype, shape, grows), layers in kinds.items():
        where = f"{layers[0]} to {layers[-1]}" if len(layers) == layers[-1] - layers[0] + 1 > 1 else str(layers)[1:-1]
        table.add_row(kind, where, dtype, _shape(shape), "with tokens" if grows else "no")
    lengths = [n for n in (1, 1024, 8192, 65536) if manifest.capacity is None or n <= manifest.capacity]
    sizes = ", ".join(f"{manifest.state_bytes(1, n) / 1e6:,.2f} MB at {n:,} tokens" for n in lengths)
    table.caption = f"one sequence's states: {sizes}"
    return table


def _carried(manifest: Manifest) -> FittedTable:
    table = FittedTable(title="States: the output of a call is the input of the next", title_justify="left")
    for name in ("input", "output", "dtype", "shape"):
        table.add_column(name)
    for spec in manifest.states:
        table.add_row(escape(spec.past_name), escape(spec.present_name), spec.dtype, _shape(spec.shape))
    return table


def _files(bundle: Bundle) -> FittedTable:
    table = FittedTable(title="Files (sha256 checked)", title_justify="left")
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name in bundle.manifest.files:
        table.add_row(escape(name), f"{(bundle.path / name).stat().st_size:,}")
    return table
