"""``seqexport bench``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from seqexport.exporter.commands.options import (
    backend_option,
    bundle_argument,
    device_option,
    original_option,
    plugins_option,
    threads_option,
)
from seqexport.plugins.errors import UserError
from seqexport.runtimes.tables import open_console


@click.command("bench", short_help="Time a bundle on one backend.")
@bundle_argument
@backend_option
@click.option("--lengths", default="128,1024", show_default=True, help="Tokens of the prompts, separated by commas.")
@click.option("--batches", default="1", show_default=True, help="Sequences at a time, separated by commas.")
@click.option("--steps", type=click.IntRange(1), default=64, show_default=True, help="Decode steps after each prompt.")
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Prefills of each size.")
@click.option("--budget", type=click.FloatRange(0.1), default=120.0, show_default=True, help="Seconds for all sizes.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the numbers as JSON.")
@device_option
@threads_option
@plugins_option
@original_option
def command(
    bundle: Path,
    backend: str,
    lengths: str,
    batches: str,
    steps: int,
    repeats: int,
    budget: float,
    output: Path | None,
    **options: Any,
) -> None:
    """Time BUNDLE on one backend: prompts of several sizes, decode after each, bytes of state and memory.

    Times are medians of whole calls: from tokens on the host to logits on the host. Exit code 1 if no size could run.

    \b
    Examples:
      seqexport bench my-model --backend trt --lengths 128,2048 --batches 1,4
      seqexport bench my-model --backend ort --device cuda -o bench.json
    """
    from seqexport.exporter.api import open_runner
    from seqexport.runtimes.comparison.bench import bench, print_table
    from seqexport.runtimes.comparison.measure import SpeedOptions
    from seqexport.runtimes.output import write_json

    sizes = SpeedOptions(_numbers("--lengths", lengths), _numbers("--batches", batches), steps, repeats, budget)
    if output is not None and not output.resolve().parent.is_dir():
        raise UserError(f"-o {output}: the folder {output.resolve().parent} does not exist")
    console = open_console()
    with console.status("") as status, open_runner(bundle, backend, **options) as runner:
        result = bench(runner, sizes, lambda what: status.update(f"{what} ..."))
    print_table(result, console)
    if output is not None:
        write_json(output, result)
    sys.exit(0 if any(point.skipped is None for point in result.points) else 1)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        raise UserError(f"{option} {text!r}: expected numbers from 1 on, separated by commas")
    return tuple(sorted({int(part) for part in parts}))
