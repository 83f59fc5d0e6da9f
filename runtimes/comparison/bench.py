"""One bundle on one backend: how fast, and how much memory."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from seqexport.runtimes import units
from seqexport.runtimes.base import Runner
from seqexport.runtimes.comparison.measure import Point, SpeedOptions, measure
from seqexport.runtimes.machine import Machine, this_machine
from seqexport.runtimes.manifest import Record
from seqexport.runtimes.tables import FittedTable

FORMAT_VERSION = 1


class Bench(Record, frozen=True):
    """What was measured, of what and where; this is the JSON."""

    format_version: int
    machine: Machine
    bundle: str
    architecture: str
    dtype: str
    target: str
    parameters: int
    backend: str
    description: str
    options: SpeedOptions
    points: tuple[Point, ...]


def bench(runner: Runner, options: SpeedOptions, progress: Callable[[str], None] = lambda what: None) -> Bench:
    """Time every size that the options and their budget allow."""
    points, manifest = measure(runner, options, progress), runner.manifest
    return Bench(
        FORMAT_VERSION,
        this_machine(),
        bundle=runner.bundle.name,
        architecture=manifest.architecture,
        dtype=manifest.dtype,
        target=manifest.target,
        parameters=manifest.source.parameters,
        backend=runner.backend,
        description=runner.description,
        options=options,
        points=points,
    )


def print_table(result: Bench, console: Console) -> None:
    machine = result.machine
    title = f"{result.bundle}, {result.dtype}: {result.description}; {machine.gpu or machine.processor}, {machine.date}"
    table = FittedTable(title=escape(title), title_justify="left")
    for name in ("batch", "prompt", "prefill", "prefill", "a step", "decode", "states", "device", "host"):
        table.add_column(name, justify="right")
    for point in result.points:
        table.add_row(str(point.batch), units.tokens(point.length), *_cells(point))
    console.print(table)
    for point in result.points:
        if point.skipped:
            console.print(f"batch {point.batch}, {point.length} tokens: {point.skipped}", markup=False, highlight=False)


def _cells(point: Point) -> tuple[str, ...]:
    return (
        units.seconds(point.prefill_seconds),
        units.rate(point.prefill_tokens_per_second),
        units.seconds(point.decode_seconds),
        units.rate(point.decode_tokens_per_second),
        units.size(point.state_bytes),
        units.size(point.device_bytes),
        units.size(point.host_bytes),
    )
