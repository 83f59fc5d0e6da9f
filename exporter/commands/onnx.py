"""``seqexport onnx``"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape

from seqexport.exporter.api import DTYPES
from seqexport.exporter.commands.options import remote_code_option
from seqexport.exporter.flags import flags
from seqexport.exporter.presets import PRESETS
from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.tables import open_console

if TYPE_CHECKING:
    from seqexport.runtimes.bundle import Bundle
    from seqexport.runtimes.comparison.verify import Check


@click.command("onnx", short_help="Export a model to an ONNX bundle.")
@click.option("--model", metavar="DIR_OR_HUB_ID", help="A checkpoint: a folder, or a Hugging Face hub id.")
@click.option(
    "--arch",
    type=click.Choice(list(PRESETS)),
    help="Without --model: the shipped model to export (default: mamba). With it: only checked against the model.",
)
@click.option(
    "--module",
    metavar="PACKAGE.MODULE:FACTORY",
    help="Any module instead: a function of yours that makes it, here or on the Python path. Its code is run.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of --module: a safetensors file of all its tensors.",
)
@click.option(
    "--input",
    "inputs",
    metavar="NAME=SIZES[:DTYPE[:BELOW]]",
    multiple=True,
    help="Of --module: an input and an example of its sizes, as in x=1x3x224x224 or ids=1x16:int64:1000.",
)
@click.option(
    "--dynamic",
    metavar="NAME=AXES",
    multiple=True,
    help="Of --module: an input's axes in order, dynamic ones by name, as in x=batch,3,height,width.",
)
@click.option(
    "--state",
    "states",
    metavar="INPUT=OUTPUT",
    multiple=True,
    help="Of --module: a state's input before a call, and its output after it.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The bundle's folder [default: the model's name]."
)
@click.option(
    "--dtype", type=click.Choice(list(DTYPES)), help="Of weights and activations [default: the checkpoint's]."
)
@click.option(
    "--logits",
    type=click.Choice(["last", "all"]),
    default="last",
    show_default=True,
    help="Of each sequence's last valid token (generation), or of every token (scoring).",
)
@click.option(
    "--max-len", type=click.IntRange(1), help="Capacity: the most tokens in a cache [default: the model's own limit]."
)
@click.option(
    "--target",
    type=click.Choice(["portable", "ort", "tensorrt"]),
    default="portable",
    show_default=True,
    help="portable: any ONNX runtime. ort: fastest in stock ONNX Runtime. tensorrt: our ops as plugin nodes.",
)
@click.option(
    "--opset",
    type=int,
    default=20,
    show_default=True,
    help="ONNX opset, 18 to 23; 27 for ONNX's own LinearAttention and CausalConvWithState, with target portable.",
)
@click.option(
    "--clamp-weights", is_flag=True, help="Set weights beyond the dtype to its largest value, instead of refusing them."
)
@click.option("--no-verify", is_flag=True, help="Do not check the written file against the original.")
@click.option("--force", is_flag=True, help="Replace OUTPUT if it is a bundle already.")
@remote_code_option
def command(
    model: str | None,
    module: str | None,
    inputs: tuple[str, ...],
    dynamic: tuple[str, ...],
    states: tuple[str, ...],
    output: Path | None,
    no_verify: bool,
    **options: Any,
) -> None:
    """Export a PyTorch sequence model to a bundle: an ONNX file with explicit states, and the proof that it is right.

    The architecture is read from the checkpoint. One graph serves prefill, chunked prefill and decode, for any batch
    and any length. Weights must be safetensors; no code of the checkpoint is run.

    With --module, any torch.nn.Module that a function of yours makes; that runs your code. Where mamba_ssm,
    causal_conv1d and the like are not installed, stand-ins are imported in their place.

    \b
    Examples:
      seqexport onnx --model state-spaces/mamba-130m-hf
      seqexport onnx --model ./my-llama -o my-llama-fp16 --dtype fp16 --max-len 4096
      seqexport onnx --model ./my-mamba -o my-mamba-ort --target ort
      seqexport onnx --arch mamba            a small model that ships inside, to try things out
      seqexport onnx --module my_models.vision:make --weights my.safetensors --input x=1x3x224x224 -o my-vision
    """
    from seqexport.exporter.api import export, importing

    console, arch = open_console(soft_wrap=True), options["arch"]
    if module is None:
        _refuse_of_modules({"input": inputs, "dynamic": dynamic, "state": states, "weights": options["weights"]})
    elif model is not None:
        raise UserError("--model and --module exclude each other")
    else:
        with importing():
            from seqexport.exporter.arguments import parse_dynamic, parse_inputs, parse_states
        options["inputs"] = parse_inputs(inputs)
        options["dynamic"], options["states"] = parse_dynamic(dynamic), parse_states(states)
    bundle = export(
        module or model or f"preset:{arch or 'mamba'}",
        output or _default_name(module or model, arch),
        stage=lambda name: _stage(console, name),
        note=lambda said: _note(console, said),
        **options,
    )
    runs = None if no_verify else _verify(console, bundle)
    _summary(console, bundle)
    _next(console, bundle, runs)


def _default_name(model: str | None, arch: str | None) -> str:
    return Path(model.removeprefix("preset:").rpartition(":")[2]).resolve().name if model else arch or "mamba"


def _refuse_of_modules(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value:
            raise UserError(f"--{name} is of any module, which --module names")


@contextmanager
def _stage(console: Console, name: str) -> Iterator[None]:
    start = time.perf_counter()
    with console.status(f"{escape(name)} ..."):
        yield
    console.print(f"[green]✓[/] {escape(name)} [dim]{time.perf_counter() - start:.1f} s[/]", highlight=False)


def _note(console: Console, said: str) -> None:
    console.print(f"[yellow]•[/] {escape(flags(said))}", highlight=False)


def _verify(console: Console, bundle: Bundle) -> bool:
    """Whether ONNX Runtime runs the bundle here.

    Raises:
        UserError: it does, and out of bounds.
    """
    from seqexport.exporter.api import verify

    not_checked: list[str] = []
    try:
        with _stage(console, "verify in ONNX Runtime"):
            checks = verify(bundle, not_checked=not_checked.append)
    except UserError as error:
        console.print(f"[yellow]–[/] not verified: {escape(flags(str(error)))}", highlight=False)
        return False
    if failed := [check for check in checks if not check.passed]:
        raise UserError(f"{bundle.path} was written, but {_failure(failed)}; see: seqexport verify {bundle.path}")
    ratio = 2 * max((check.error or 0.0) / (check.allowed or 1.0) for check in checks)
    console.print(
        f"  {len(checks)} checks: at most {ratio:.1f}× PyTorch's own error (2× is allowed)",
        highlight=False,
    )
    for what in not_checked:
        console.print(f"  not checked: {escape(what)}", highlight=False)
    return True


def _failure(failed: list[Check]) -> str:
    """The worst of the checks that failed."""
    broken = next((check for check in failed if check.not_finite), None)
    if broken is not None:
        return f"{broken.name} is not finite: {broken.not_finite}"
    worst = max(failed, key=lambda check: (check.error or 0) / (check.allowed or 1))
    return f"{worst.name} is off by {worst.error:.1e}, more than the {worst.allowed:.1e} allowed"


def _summary(console: Console, bundle: Bundle) -> None:
    manifest, path = bundle.manifest, escape(str(bundle.path))
    size = sum(file.stat().st_size for file in bundle.path.iterdir()) / 1e6
    console.print(
        f"[bold]{path}[/]: {manifest.architecture}, {units.parameters(manifest.source.parameters)}, "
        f"{manifest.dtype}, target {manifest.target}, {size:,.1f} MB",
        highlight=False,
    )


def _next(console: Console, bundle: Bundle, runs: bool | None) -> None:
    """A command that works here; where the bundle does not run here, why."""
    from seqexport.exporter.commands.next_step import next_step

    why_not, command = next_step(bundle, runs_in_ort=runs)
    if why_not is not None:
        console.print(f"[yellow]–[/] does not run here: {escape(why_not)}", highlight=False)
    console.print(f"next: [bold]seqexport {escape(command)}[/]", highlight=False)
