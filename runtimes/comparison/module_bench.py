"""How fast a bundle of any module runs on one backend, at several sizes, and how much memory it takes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from time import perf_counter

import msgspec
import numpy as np
import psutil
from rich.console import Console
from rich.markup import escape

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.comparison.benched import Benched, benched
from seqexport.runtimes.comparison.measure import TellsDeviceMemory, peak_resident
from seqexport.runtimes.comparison.module_reference import Case, Sizes, drawn, read_module_reference
from seqexport.runtimes.comparison.module_verify import taken
from seqexport.runtimes.manifest import Manifest, Record
from seqexport.runtimes.module import Arrays, ModuleRunner
from seqexport.runtimes.tables import FittedTable

Progress = Callable[[str], None]


class ModuleSpeed(Record, frozen=True):
    """What to time.

    Attributes:
        sizes: of dynamic axes, by name; those of the examples where nothing is given.
        repeats: timed calls of each size, at most; one untimed call comes first.
        budget_seconds: for all sizes; what would not fit is timed less often.
    """

    sizes: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict)
    repeats: int = 20
    budget_seconds: float = 60.0


QUICK, FULL = ModuleSpeed(repeats=5, budget_seconds=10.0), ModuleSpeed()


class ModulePoint(Record, frozen=True):
    """One size: seconds of a call from arrays on the host to arrays on the host, median of ``repeats``.

    Attributes:
        sizes: of the dynamic axes, in words.
        host_bytes: most memory of this process above what it held before.
        device_bytes: most memory on the device, where the runner can tell.
        skipped: why there are no numbers.
    """

    sizes: str
    seconds: float | None = None
    repeats: int = 0
    host_bytes: int | None = None
    device_bytes: int | None = None
    skipped: str | None = None


class ModuleBench(Benched, frozen=True):
    """What was measured, of what and where; this is the JSON."""

    options: ModuleSpeed
    points: tuple[ModulePoint, ...]


def bench_module(runner: ModuleRunner, options: ModuleSpeed, progress: Progress = lambda what: None) -> ModuleBench:
    """Time every combination of the sizes.

    Raises:
        UserError: the graph has no dynamic axis of a name that is given.
    """
    points = measure_module(runner, options, progress)
    return ModuleBench(**benched(runner), options=options, points=points)


def measure_module(
    runner: ModuleRunner, options: ModuleSpeed, progress: Progress = lambda what: None
) -> tuple[ModulePoint, ...]:
    """Time every combination of the sizes, in the order in which they are given."""
    example = read_module_reference(runner.bundle).cases[0]
    own = example.sizes(runner.manifest)
    if unknown := options.sizes.keys() - own.keys():
        raise UserError(f"`axis` {min(unknown)}: the dynamic axes are {', '.join(own) or 'none'}")
    chosen = {axis: options.sizes.get(axis, (size,)) for axis, size in own.items()}
    combined = [dict(zip(chosen, sizes, strict=True)) for sizes in itertools.product(*chosen.values())]
    return tuple(_point(runner, example, sizes, options, options.budget_seconds / len(combined), progress)
                 for sizes in combined)  # fmt: skip


def _point(
    runner: ModuleRunner, example: Case, sizes: Sizes, options: ModuleSpeed, seconds: float, progress: Progress
) -> ModulePoint:
    said = ", ".join(f"{axis} {size}" for axis, size in sizes.items()) or "the only size"
    progress(said)
    device = runner if isinstance(runner, TellsDeviceMemory) else None
    if device:
        device.reset_peak_device_memory()
    inputs, before = inputs_of(runner, example, sizes), psutil.Process().memory_info().rss
    try:
        with peak_resident() as peak:
            warm_up = _seconds(runner, inputs)
        times, end = [_seconds(runner, inputs)], perf_counter() + seconds - 2 * warm_up
        while len(times) < options.repeats and perf_counter() + times[-1] < end:
            times.append(_seconds(runner, inputs))
    except UserError as error:
        return ModulePoint(said, skipped=str(error))
    bytes_used = device.peak_device_memory() if device else None
    return ModulePoint(said, median(times), len(times), max(0, peak() - before), bytes_used)


def _seconds(runner: ModuleRunner, inputs: Arrays) -> float:
    start = perf_counter()
    runner(inputs)
    return perf_counter() - start


def inputs_of(runner: ModuleRunner, example: Case, sizes: Mapping[str, int]) -> Arrays:
    """The example's inputs in other sizes, as a runner takes them; values are drawn from the example's."""
    random, given = np.random.default_rng(0), taken(runner, example)
    shapes = {name: _shape(runner.manifest, name, array.shape, sizes) for name, array in given.items()}
    return {
        name: array if array.shape == shapes[name] else drawn(array, shapes[name], random)
        for name, array in given.items()
    }


def _shape(manifest: Manifest, name: str, shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[int, ...]:
    spec = manifest.input_named(name)
    axes = spec.shape if spec is not None else shape
    return tuple(sizes.get(axis, n) if isinstance(axis, str) else n for axis, n in zip(axes, shape, strict=True))


def print_table(result: ModuleBench, console: Console) -> None:
    table = FittedTable(title=escape(result.title), title_justify="left")
    table.add_column("sizes")
    for name in ("a call", "calls", "device", "host"):
        table.add_column(name, justify="right")
    for point in result.points:
        cells = (units.seconds(point.seconds), str(point.repeats), units.size(point.device_bytes))
        table.add_row(escape(point.sizes), *cells, units.size(point.host_bytes))
    console.print(table)
    for point in result.points:
        if point.skipped:
            console.print(f"{point.sizes}: {point.skipped}", markup=False, highlight=False)
