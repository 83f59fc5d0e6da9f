"""One bundle on one backend: how fast, and how much memory."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from seqexport.runtimes import units
from seqexport.runtimes.base import Runner
from seqexport.runtimes.comparison.benched import Benched, benched
from seqexport.runtimes.comparison.measure import Point, SpeedOptions, measure
from seqexport.runtimes.tables import FittedTable


class Bench(Benched, frozen=True):
    """What was measured, of what and where; this is the JSON."""

    options: SpeedOptions
    points: tuple[Point, ...]


def bench(runner: Runner, options: SpeedOptions, progress: Callable[[str], None] = lambda what: None) -> Bench:
    """Time every size that the options and their budget allow."""
    points = measure(runner, options, progress)
    return Bench(**benched(runner), options=options, points=points)


def print_table(result: Bench, console: Console) -> None:
    table = FittedTable(title=escape(result.title), title_justify="left")
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
