"""``seqexport bench``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seqexport.exporter.commands.options import (
    backend_option,
    bundle_argument,
    device_option,
    original_option,
    plugins_option,
    threads_option,
    weights_option,
)
from seqexport.plugins.errors import UserError
from seqexport.runtimes.tables import open_console

if TYPE_CHECKING:
    from seqexport.runtimes.bundle import Bundle
    from seqexport.runtimes.comparison.bench import Bench
    from seqexport.runtimes.comparison.module_bench import ModuleBench

LENGTHS, BATCHES, STEPS = "128,1024", "1", 64


@click.command("bench", short_help="Time a bundle on one backend.")
@bundle_argument
@backend_option
@click.option("--lengths", help=f"Tokens of the prompts, separated by commas [default: {LENGTHS}].")
@click.option("--batches", help=f"Sequences at a time, separated by commas [default: {BATCHES}].")
@click.option("--steps", type=click.IntRange(1), help=f"Decode steps after each prompt [default: {STEPS}].")
@click.option(
    "--axis",
    "axes",
    metavar="NAME=SIZES",
    multiple=True,
    help="Of any module: sizes of a dynamic axis, as in height=224,448 [default: the example's].",
)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Timed calls of each size.")
@click.option("--budget", type=click.FloatRange(0.1), default=120.0, show_default=True, help="Seconds for all sizes.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the numbers as JSON.")
@device_option
@threads_option
@plugins_option
@original_option
@weights_option
def command(
    bundle: Path,
    backend: str,
    lengths: str | None,
    batches: str | None,
    steps: int | None,
    axes: tuple[str, ...],
    repeats: int,
    budget: float,
    output: Path | None,
    **options: Any,
) -> None:
    """Time BUNDLE on one backend: prompts of several sizes, decode after each, bytes of state and memory.

    Times are medians of whole calls: from tokens on the host to logits on the host; of any module, from arrays to
    arrays. Exit code 1 if no size could run.

    \b
    Examples:
      seqexport bench my-model --backend trt --lengths 128,2048 --batches 1,4
      seqexport bench my-model --backend ort --device cuda -o bench.json
      seqexport bench my-vision --axis batch=1,8 --axis height=224,448 --axis width=224
    """
    from seqexport.exporter.api import is_module
    from seqexport.runtimes.bundle import open_bundle
    from seqexport.runtimes.output import write_json

    if output is not None and not output.resolve().parent.is_dir():
        raise UserError(f"-o {output}: the folder {output.resolve().parent} does not exist")
    opened = open_bundle(bundle)
    of_texts = {"lengths": lengths, "batches": batches, "steps": steps}
    if is_module(opened):
        _refuse(of_texts, "a language model's, and this bundle is any module's: its sizes are given with --axis")
        result: Any = _bench_module(opened, backend, axes, repeats, budget, options)
    else:
        _refuse({"axis": axes or None, "weights": options.pop("weights")}, "any module's; this is a language model's")
        sizes = (_numbers("--lengths", lengths or LENGTHS), _numbers("--batches", batches or BATCHES), steps or STEPS)
        result = _bench(opened, backend, *sizes, repeats, budget, options)
    if output is not None:
        write_json(output, result)
    sys.exit(0 if any(point.skipped is None for point in result.points) else 1)


def _bench(
    bundle: Bundle,
    backend: str,
    lengths: tuple[int, ...],
    batches: tuple[int, ...],
    steps: int,
    repeats: int,
    budget: float,
    options: dict[str, Any],
) -> Bench:
    from seqexport.exporter.api import open_runner
    from seqexport.runtimes.comparison.bench import bench, print_table
    from seqexport.runtimes.comparison.measure import SpeedOptions

    console, sizes = open_console(), SpeedOptions(lengths, batches, steps, repeats, budget)
    with console.status("") as status, open_runner(bundle, backend, **options) as runner:
        result = bench(runner, sizes, lambda what: status.update(f"{what} ..."))
    print_table(result, console)
    return result


def _bench_module(
    bundle: Bundle, backend: str, axes: tuple[str, ...], repeats: int, budget: float, options: dict[str, Any]
) -> ModuleBench:
    from seqexport.exporter.api import open_module
    from seqexport.runtimes.comparison.module_bench import ModuleSpeed, bench_module, print_table

    sizes = {}
    for text in axes:
        name, _, numbers = text.partition("=")
        sizes[name] = _numbers(f"--axis {name}", numbers)
    console, speed = open_console(), ModuleSpeed(sizes, repeats, budget)
    with console.status("") as status, open_module(bundle, backend, **options) as runner:
        result = bench_module(runner, speed, lambda what: status.update(f"{what} ..."))
    print_table(result, console)
    return result


def _refuse(given: dict[str, Any], whose: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"--{name} is {whose}")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        raise UserError(f"{option} {text!r}: expected numbers from 1 on, separated by commas")
    return tuple(sorted({int(part) for part in parts}))
