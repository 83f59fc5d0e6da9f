"""``seqexport compare``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape

from seqexport.exporter.commands.options import (
    device_option,
    original_option,
    plugins_option,
    threads_option,
    weights_option,
)
from seqexport.exporter.flags import flags
from seqexport.exporter.presets import HELD_OUT
from seqexport.plugins.errors import UserError
from seqexport.runtimes.tables import open_console


@click.command("compare", short_help="Accuracy and speed against PyTorch, as a page.")
@click.argument("bundles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--backends",
    help="Which to compare, separated by commas [default: torch,ort; of any module without --original: ort].",
)
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
@plugins_option
@original_option
@weights_option
def command(
    bundles: tuple[Path, ...],
    backends: str | None,
    output: Path | None,
    **options: Any,
) -> None:
    """Compare backends with the PyTorch original: how exact they are, how fast, and what they keep in memory.

    Give one bundle, or up to four to see them side by side: where quadratic attention and the linear scan cross, and
    how the cache grows while the state does not. Exit code: 0 if every backend ran and held its bounds, else 1.

    \b
    Examples:
      seqexport compare my-model -o report.html
      seqexport compare my-mamba my-llama --backends torch,ort,trt -o report.html
      seqexport compare my-model --backends ort --device cuda
      seqexport compare my-vision --original my_models.vision:make --weights my.safetensors
    """
    from seqexport.exporter.api import compare, is_module
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.comparison import module_compare, report
    from seqexport.runtimes.output import write_json

    console = open_console()
    _check_output(output)
    opened = [open_bundle(bundle) for bundle in bundles]
    usual = "torch,ort" if options["original"] or not all(map(is_module, opened)) else "ort"
    with console.status("") as status:
        comparison = compare(
            opened, (backends or usual).split(","), progress=lambda what: status.update(f"{what} ..."), **options
        )
    comparison = _with_flags(comparison)
    if isinstance(comparison, module_compare.ModuleComparison):
        module_compare.print_modules(comparison, console)
    else:
        report.print_table(comparison, console)
    if output is not None:
        write_json(output.with_suffix(".json"), comparison)
        if isinstance(comparison, module_compare.ModuleComparison):
            module_compare.write_modules_html(comparison, output)
        else:
            report.write_html(comparison, output)
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


def _with_flags(comparison: Any) -> Any:
    """Why a backend could not run, in the command line's words."""
    replace = msgspec.structs.replace
    bundles = []
    for bundle in comparison.bundles:
        results = [replace(result, error=result.error and flags(result.error)) for result in bundle.results]
        bundles.append(replace(bundle, results=tuple(results)))
    return replace(comparison, bundles=tuple(bundles))
