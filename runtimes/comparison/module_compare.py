"""Every backend of one to four bundles of any modules: how exact against what is recorded, how fast, what memory."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.comparison.accuracy import Check
from seqexport.runtimes.comparison.module_bench import ModulePoint, ModuleSpeed, measure_module
from seqexport.runtimes.comparison.module_reference import read_module_reference
from seqexport.runtimes.comparison.module_verify import verify_module
from seqexport.runtimes.comparison.verdict import backend_name
from seqexport.runtimes.machine import Machine, this_machine
from seqexport.runtimes.manifest import Record
from seqexport.runtimes.module import ModuleRunner
from seqexport.runtimes.output import write_output
from seqexport.runtimes.tables import FittedTable, open_console

FORMAT_VERSION = 1
Progress = Callable[[str], None]


class ModuleResult(Record, frozen=True):
    """One backend on one bundle. ``error`` says why it could not run; then the rest is empty."""

    backend: str
    description: str = ""
    checks: tuple[Check, ...] = ()
    not_checked: tuple[str, ...] = ()
    points: tuple[ModulePoint, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether it ran, and every check holds."""
        return self.error is None and all(check.passed for check in self.checks)


class ModuleBundleResult(Record, frozen=True):
    """One bundle on every backend."""

    name: str
    architecture: str
    dtype: str
    target: str
    parameters: int
    results: tuple[ModuleResult, ...]


class ModuleComparison(Record, frozen=True):
    """All that a page shows; this is its JSON."""

    format_version: int
    machine: Machine
    options: ModuleSpeed
    bundles: tuple[ModuleBundleResult, ...]

    @property
    def passed(self) -> bool:
        """No backend failed to run, and no check of any failed."""
        return all(result.passed for bundle in self.bundles for result in bundle.results)


def compare_modules(
    bundles: Sequence[Bundle],
    backends: Mapping[str, Callable[[Bundle], ModuleRunner]],
    options: ModuleSpeed,
    progress: Progress = lambda what: None,
) -> ModuleComparison:
    """Compare backends with what the original answered, one runner open at a time.

    Raises:
        UserError: a reference cannot be read. A backend that fails is a result like any other.
    """
    results = tuple(_bundle(bundle, backends, options, progress) for bundle in bundles)
    return ModuleComparison(FORMAT_VERSION, this_machine(), options, results)


def _bundle(
    bundle: Bundle, backends: Mapping[str, Callable[[Bundle], ModuleRunner]], options: ModuleSpeed, progress: Progress
) -> ModuleBundleResult:
    manifest, reference = bundle.manifest, read_module_reference(bundle)

    def result(name: str) -> ModuleResult:
        not_checked = list[str]()
        progress(f"{bundle.name}, {name}: opening")
        try:
            with backends[name](bundle) as runner:
                checks = tuple(
                    Check(each.name, each.error, each.torch_error, each.allowed or 0.0, each.passed)
                    for each in verify_module(runner, reference, not_checked.append)
                )
                points = measure_module(runner, options, lambda what: progress(f"{bundle.name}, {name}: {what}"))
                return ModuleResult(name, runner.description, checks, tuple(not_checked), points)
        except UserError as error:
            return ModuleResult(name, error=str(error))

    return ModuleBundleResult(
        name=bundle.name,
        architecture=manifest.architecture,
        dtype=manifest.dtype,
        target=manifest.target,
        parameters=manifest.source.parameters,
        results=tuple(map(result, backends)),
    )


HEADINGS = ("bundle", "backend", "", "output", "error ÷ PyTorch’s", "sizes", "a call", "host", "device")


def _rows(comparison: ModuleComparison) -> list[tuple[str, ...]]:
    """A line for each bundle and backend: its worst output, and each size's time."""
    rows = []
    for bundle in comparison.bundles:
        for result in bundle.results:
            worst = max(result.checks, key=lambda check: _share(check), default=None)
            shown = (worst.what, units.ratio(2 * _share(worst))) if worst else (units.NONE, units.NONE)
            head = (bundle.name, backend_name(result.backend), "✓" if result.passed else "✗", *shown)
            points: list[ModulePoint | None] = [*result.points] or [None]
            for index, point in enumerate(points):
                rows.append(((*head,) if index == 0 else ("",) * len(head)) + _cells(point))
    return rows


def _share(check: Check) -> float:
    return float("inf") if check.error is None else check.error / check.allowed


def _cells(point: ModulePoint | None) -> tuple[str, ...]:
    if point is None:
        return (units.NONE,) * 4
    return (point.sizes, units.seconds(point.seconds), units.size(point.host_bytes), units.size(point.device_bytes))


def _notes(comparison: ModuleComparison) -> list[str]:
    notes = []
    for bundle in comparison.bundles:
        for result in bundle.results:
            said = [result.error] if result.error else [f"not checked: {what}" for what in result.not_checked]
            said += [f"{point.sizes}: {point.skipped}" for point in result.points if point.skipped]
            notes += [f"{bundle.name}, {backend_name(result.backend)}: {what}" for what in said]
    return notes


def print_modules(comparison: ModuleComparison, console: Console | None = None) -> None:
    """A line for each bundle, backend and size, and what is left open."""
    console = console or open_console()
    table = FittedTable(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if index in (4, 6, 7, 8) else "left")
    for row in _rows(comparison):
        table.add_row(*map(escape, row))
    console.print(table)
    for note in _notes(comparison):
        console.print(note, markup=False, highlight=False)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>seqexport compare</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse }} th, td {{ padding: .3em .8em; border-bottom: 1px solid #ccc; text-align: left }}
</style></head><body>
<h1>{title}</h1><p>{machine}</p>
<table><tr>{headings}</tr>
{rows}
</table>
{notes}
<p>Error: of the worst output over all recorded calls against the original in float64, beside PyTorch’s own in the same
dtype; at most twice is allowed. A call: median, from arrays on the host to arrays on the host.</p>
</body></html>
"""


def write_modules_html(comparison: ModuleComparison, path: Path) -> None:
    """One page that needs nothing else.

    Raises:
        UserError: the file cannot be written; what was there stays.
    """
    machine = comparison.machine
    page = PAGE.format(
        title=html.escape(", ".join(bundle.name for bundle in comparison.bundles)),
        machine=html.escape(f"{machine.gpu or machine.processor}, {machine.date}"),
        headings="".join(f"<th>{html.escape(heading)}</th>" for heading in HEADINGS),
        rows="\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in _rows(comparison)
        ),
        notes="".join(f"<p>{html.escape(note)}</p>" for note in _notes(comparison)),
    )
    write_output(path, page.encode())
