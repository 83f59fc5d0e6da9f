"""``seqexport build``"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from seqexport.plugins.errors import UserError
from seqexport.runtimes.tables import open_console

if TYPE_CHECKING:
    from rich.progress import TaskID

    from seqexport.runtimes.trt.engine import BuildOptions

SHAPING = {
    "min_shapes": "--minShapes",
    "opt_shapes": "--optShapes",
    "max_shapes": "--maxShapes",
    "optimization_level": "--builderOptimizationLevel",
    "mem_pool_size": "--memPoolSize",
    "version_compatible": "--versionCompatible",
    "serialize_plugins": "--setPluginsToSerialize",
    "no_plugins": "--no-plugins",
    "tactic_sources": "--tactic-sources",
    "preview": "--preview",
}
"""The options that shape an engine, which its record keeps."""


@click.command("build", short_help="Build a TensorRT engine for this machine's GPU.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--minShapes", "min_shapes", metavar="SHAPES", help="Smallest shapes, as in input_ids:1x1.")
@click.option("--optShapes", "opt_shapes", metavar="SHAPES", help="The shapes to be fastest at.")
@click.option("--maxShapes", "max_shapes", metavar="SHAPES", help="Largest shapes, as in input_ids:4x2048.")
@click.option(
    "--timingCacheFile",
    "timing_cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Timings of earlier builds; read if it is there, written after the build.",
)
@click.option(
    "--builderOptimizationLevel",
    "optimization_level",
    type=click.IntRange(0, 5),
    help="0 (fastest build) to 5 (fastest engine) [default: TensorRT's own].",
)
@click.option(
    "--memPoolSize", "mem_pool_size", metavar="POOLS", help="Limits in MiB, as in workspace:1024,tacticSharedMem:48K."
)
@click.option("--versionCompatible", "version_compatible", is_flag=True, help="Later versions of its major run it too.")
@click.option(
    "--setPluginsToSerialize",
    "serialize_plugins",
    is_flag=True,
    help="Put the plugin library into the plan; needs --versionCompatible.",
)
@click.option("--no-plugins", is_flag=True, help="Build our ops from their function bodies; needs no plugin library.")
@click.option(
    "--tactic-sources", metavar="NAMES", help="Only these, as in CUBLAS,CUDNN, or none [default: TensorRT's own]."
)
@click.option(
    "--preview",
    metavar="NAMES",
    help="Preview features to turn on or off, as in +fasterDynamicShapes0805,-other; 8.6 has that one off.",
)
def command(bundle: Path, timing_cache: Path | None, **given: object) -> None:
    """Build BUNDLE's TensorRT engine for this machine's GPU, as BUNDLE/engines/GPU-trtVERSION.plan.

    The engine has two profiles: prefill, and decode of one token a sequence. A shape that is given sets its batch, seq
    or max_len in all inputs of the prefill profile, and decode follows. The engine of any other module has one profile,
    for the sizes that its export has recorded; a shape that is given sets its axes in all inputs.

    BUNDLE may be any other ONNX file too: then TensorRT builds it as it is, and the plan is written beside it.

    \b
    Examples:
      seqexport build my-model
      seqexport build my-model --maxShapes input_ids:8x4096 --timingCacheFile timings.cache
      seqexport build my-portable-model --no-plugins
    """
    from seqexport.runtimes.bundle import MANIFEST, MODEL, open_bundle
    from seqexport.runtimes.trt.engine import build, build_plain

    options = _options(timing_cache, given)
    console = open_console(stderr=True)
    if bundle.name == MODEL and (bundle.parent / MANIFEST).is_file():
        bundle = bundle.parent
    if bundle.suffix == ".onnx" and bundle.is_file():
        console.print(f"{escape(str(bundle))} is no bundle of ours: plain TensorRT builds it as it is", highlight=False)
        with _shown(console) as progress:
            plan = build_plain(bundle, options, progress)
    else:
        opened = open_bundle(bundle)
        with _shown(console) as progress:
            plan = build(opened, options, progress)
    click.echo(plan)


def _options(timing_cache: Path | None, given: dict[str, object]) -> BuildOptions:
    from seqexport.runtimes.trt.engine import BuildOptions, parse_pools
    from seqexport.runtimes.trt.profiles import GivenShapes, parse_shapes

    def text(name: str) -> str | None:
        value = given[name]
        return None if value is None else str(value)

    if given["serialize_plugins"] and not given["version_compatible"]:
        raise UserError("--setPluginsToSerialize needs --versionCompatible: only such plans carry plugins")
    if given["serialize_plugins"] and given["no_plugins"]:
        raise UserError("--setPluginsToSerialize and --no-plugins exclude each other")
    sources, level = text("tactic_sources"), given["optimization_level"]
    shapes = [parse_shapes(SHAPING[name], text(name)) for name in ("min_shapes", "opt_shapes", "max_shapes")]
    return BuildOptions(
        shapes=GivenShapes(*shapes),
        plugins=not given["no_plugins"],
        timing_cache=timing_cache,
        optimization_level=level if isinstance(level, int) else None,
        memory_pools=parse_pools(text("mem_pool_size")),
        version_compatible=bool(given["version_compatible"]),
        serialize_plugins=bool(given["serialize_plugins"]),
        tactic_sources=None if sources is None else [] if sources in ("", "none") else sources.split(","),
        preview=tuple(filter(None, (text("preview") or "").split(","))),
        flags={flag: _spelled(given[name]) for name, flag in SHAPING.items() if given[name] not in (None, False)},
    )


def _spelled(value: object) -> str:
    return "" if value is True else str(value)


class _Bars:
    """TensorRT's phases as nested bars."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        self._tasks[name] = self._bars.add_task(f"  {name}" if parent in self._tasks else name, total=steps)

    def step(self, name: str, done: int) -> None:
        if name in self._tasks:
            self._bars.update(self._tasks[name], completed=done)

    def phase_finish(self, name: str) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            self._bars.remove_task(task)

    def warn(self, message: str) -> None:
        self._bars.console.print(f"warning: {escape(message)}", highlight=False, soft_wrap=True)


@contextmanager
def _shown(console: Console) -> Iterator[_Bars]:
    """On a terminal, a spinner and under it what TensorRT reports, while the block runs."""
    text = TextColumn("{task.description}")
    columns = (SpinnerColumn(), text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bars.add_task("build", total=None)
        yield _Bars(bars)
