"""``seqexport compare``"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from seqexport.exporter.commands.options import (
    device_option,
    no_plugins_option,
    original_option,
    source_of,
    threads_option,
)
from seqexport.plugins.errors import UserError
from seqexport.runtimes.tables import open_console

if TYPE_CHECKING:
    from seqexport.runtimes.base import Runner
    from seqexport.runtimes.bundle import Bundle
    from seqexport.runtimes.comparison.accuracy import Original

HELD_OUT = Path(__file__).parent.parent / "presets" / "heldout.txt"


@click.command("compare", short_help="Accuracy and speed against PyTorch, as a page.")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--backends", default="torch,ort", show_default=True, help="Which to compare, separated by commas.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The page; a .json of the same name goes beside it.",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    default=HELD_OUT,
    help="Held-out text [default: one ships inside].",
)
@click.option("--quick", is_flag=True, help="Fewer and smaller measurements, for small models.")
@device_option
@threads_option
@no_plugins_option
@original_option
def command(
    bundles: tuple[Path, ...],
    backends: str,
    output: Path | None,
    text: Path,
    quick: bool,
    device: str,
    threads: int | None,
    no_plugins: bool,
    original: str | None,
) -> None:
    """Compare backends with the PyTorch original: how exact they are, how fast, and what they keep in memory.

    Give one bundle, or two to see them side by side: where quadratic attention and the linear scan cross, and how the
    cache grows while the state does not. Exit code: 0 if every backend ran and held its bounds, else 1.

    \b
    Examples:
      seqexport compare my-model -o report.html
      seqexport compare my-mamba my-llama --backends torch,ort,trt -o report.html
      seqexport compare my-model --backends ort --device cuda
    """
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.comparison.compare import FULL, QUICK, compare
    from seqexport.runtimes.comparison.report import print_table, write_html, write_json
    from seqexport.runtimes.quiet import quiet

    console = open_console()
    opened = [open_bundle(bundle) for bundle in bundles]
    if len(opened) > 2:
        raise UserError(f"{len(opened)} bundles: compare one, or two side by side")
    _check_output(output)
    with quiet(), console.status("") as status:
        openers, truth = _openers(backends.split(","), device, threads, original, no_plugins=no_plugins)
        comparison = compare(
            opened,
            openers,
            text=text,
            original=truth,
            options=QUICK if quick else FULL,
            progress=lambda what: status.update(f"{what} ..."),
        )
    print_table(comparison, console)
    if output is not None:
        write_json(comparison, output.with_suffix(".json"))
        write_html(comparison, output)
        console.print(
            f"page: [bold]{escape(str(output))}[/], numbers: {escape(str(output.with_suffix('.json')))}",
            highlight=False,
        )
    sys.exit(0 if comparison.passed else 1)


def _check_output(output: Path | None) -> None:
    if output is not None and output.suffix != ".html":
        raise UserError(f"-o {output}: expected a file that ends in .html")
    if output is not None and not output.resolve().parent.is_dir():
        raise UserError(f"-o {output}: the folder {output.resolve().parent} does not exist")


def _openers(
    names: list[str], device: str, threads: int | None, original: str | None, *, no_plugins: bool
) -> tuple[dict[str, Callable[[Bundle], Runner]], Original | None]:
    """How to open each backend, and the original as the reference, where there is PyTorch."""
    from seqexport.runtimes.backends import BACKENDS, open_runner

    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        raise UserError(f"--backends {unknown[0]!r}: expected some of {','.join(BACKENDS)}")
    openers: dict[str, Callable[[Bundle], Runner]] = {
        name: functools.partial(open_runner, name, device=device, threads=threads, no_plugins=no_plugins)
        for name in names
    }
    try:
        from seqexport.runtimes.comparison.original import fastest_threads, reference_runners
        from seqexport.runtimes.pytorch.runner import TorchRunner
    except ImportError:
        return openers, None
    load = _loader(original)
    if "torch" in openers:

        def open_torch(bundle: Bundle) -> Runner:
            model = load(bundle)
            best = threads or (fastest_threads(bundle, model) if device == "cpu" else None)
            return TorchRunner(bundle, model, device=device, threads=best)

        openers["torch"] = open_torch
    return openers, reference_runners(load)


def _loader(original: str | None) -> Callable[[Bundle], Any]:
    """Loads a bundle's original in the bundle's dtype, once."""
    from seqexport.runtimes.pytorch.runner import load_original_of

    loaded: dict[Any, Any] = {}

    def load(bundle: Bundle) -> Any:
        manifest = bundle.manifest
        key = manifest.source.model, manifest.dtype, manifest.source.clamped
        if key not in loaded:
            loaded[key] = load_original_of(bundle, source_of(original, manifest.source.model))
        return loaded[key]

    return load
