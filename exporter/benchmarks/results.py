"""What the steps of the GPU run found, and how it is kept: one JSON file a run, and a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.markup import escape

from seqexport.plugins.errors import UserError
from seqexport.runtimes.machine import Machine
from seqexport.runtimes.manifest import Record
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import FittedTable

FORMAT_VERSION = 1
Status = Literal["passed", "failed", "left out"]


class Row(Record, frozen=True):
    """One finding.

    Attributes:
        name: what was checked or measured, unique in its step.
        passed: whether a check held; None where there is nothing to hold.
        measured, unit: a number.
        target: the least that is wanted of it; where ``at_most``, the most.
        detail: all that it was made of.
    """

    name: str
    passed: bool | None = None
    measured: float | None = None
    unit: str = ""
    target: float | None = None
    at_most: bool = False
    detail: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None where there is none, or no number."""
        if self.target is None or self.measured is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    @property
    def reason(self) -> str:
        """Why it did not hold or was left out; empty if neither."""
        failed = [str(what) for what in self.detail.get("failed", ())]
        return str(self.detail.get("error") or self.detail.get("left out") or "; ".join(failed))


class StepResult(Record, frozen=True):
    """``why``: the reason of a step that failed or was left out; ``date``: of the last run. A missed target does not
    fail a step."""

    step: str
    status: Status
    seconds: float
    rows: tuple[Row, ...] = ()
    why: str = ""
    date: str = ""


class Report(Record, frozen=True):
    """The results file."""

    format_version: int
    gpu: str
    compute_capability: str
    machine: Machine
    steps: tuple[StepResult, ...]


class Results:
    """Results by step in a folder, so that a run may be made in several parts, and a part again."""

    def __init__(self, folder: Path, order: Iterable[str]) -> None:
        self.folder, self.order = folder, tuple(order)
        folder.mkdir(parents=True, exist_ok=True)

    def keep(self, result: StepResult) -> None:
        """Replace the step's result; rows that it did not make this time stay, if it passed both times."""
        before = self.read().get(result.step)
        if before is not None and before.status == result.status == "passed":
            made = {row.name for row in result.rows}
            old = tuple(row for row in before.rows if row.name not in made)
            result = msgspec.structs.replace(result, rows=(*old, *result.rows))
        write_json(self._file(result.step), result)
        self._part(result.step).unlink(missing_ok=True)

    def keep_part(self, result: StepResult) -> None:
        """What a step has found so far, which counts where it never ends and no earlier result is there."""
        write_json(self._part(result.step), result)

    def read(self) -> dict[str, StepResult]:
        """All results so far, in the steps' order.

        Raises:
            UserError: a result is damaged.
        """
        found = {step: self._file(step) if self._file(step).exists() else self._part(step) for step in self.order}
        return {step: _read(file) for step, file in found.items() if file.exists()}

    def _file(self, step: str) -> Path:
        return self.folder / f"{step}.json"

    def _part(self, step: str) -> Path:
        return self.folder / f"{step}.part.json"


def _read(file: Path) -> StepResult:
    try:
        return msgspec.json.decode(file.read_bytes(), type=StepResult)
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); remove it and run that step again") from error


def print_table(console: Console, steps: Iterable[StepResult]) -> None:
    """A line for each step, and one for each of its findings that is a number or did not hold."""
    table = FittedTable(title="The GPU run", title_justify="left")
    for name in ("step", "what", "measured", "wanted", ""):
        table.add_column(name, justify="right" if name in ("measured", "wanted") else "left")
    for step in steps:
        held = sum(row.passed is True for row in step.rows)
        checked = sum(row.passed is not None for row in step.rows)
        summary = step.why or (f"{held} of {checked} checks hold" if checked else "")
        table.add_row(step.step, escape(summary), f"{step.seconds:.0f} s", "", _colored(step.status))
        for row in step.rows:
            if row.measured is not None or row.passed is False:
                table.add_row("", *_cells(row))
        table.add_section()
    console.print(table)


def _cells(row: Row) -> tuple[str, str, str, str]:
    measured = "" if row.measured is None else f"{row.measured:.3g} {row.unit}".rstrip()
    wanted = "" if row.target is None else f"{'≤' if row.at_most else '≥'} {row.target:g} {row.unit}".rstrip()
    verdict = {True: "[green]met[/]", False: "[yellow]missed[/]", None: ""}[row.met]
    return escape(row.name), measured, wanted, "[bold red]failed[/]" if row.passed is False else verdict


def _colored(status: Status) -> str:
    color = {"passed": "green", "failed": "bold red", "left out": "yellow"}[status]
    return f"[{color}]{status}[/]"
