"""Every table that a program or a command prints, on narrow terminals and in a pipe: no number and no name is cut."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from seqexport.exporter.benchmarks.results import Row, StepResult
from seqexport.exporter.benchmarks.results import print_table as print_steps
from seqexport.exporter.commands import inspect, verify
from seqexport.runtimes.comparison import bench, report
from seqexport.runtimes.comparison.measure import Point, SpeedOptions
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.tables import PIPE_WIDTH, FittedTable
from tests.conftest import Exported
from tests.runtimes import test_report

PROGRAMS = Path(__file__).parents[2] / "exporter" / "benchmarks"


def lines_of(table: RenderableType, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def words_of(table: Table) -> set[str]:
    """What must not be broken: words, and whole numbers with their unit."""
    words: set[str] = set()
    for column in table.columns:
        cells = [Text.from_markup(str(cell)).plain for cell in column.cells]
        words.update(*(cell.splitlines() if column.justify == "right" else cell.split() for cell in cells))
        words.update(str(column.header).split())
    return words


def check_whole(table: Table, width: int) -> list[str]:
    lines = lines_of(table, width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    missing = [word for word in words_of(table) if word not in text]
    assert not missing, f"{missing} in\n{text}"
    return lines


class Kept:
    """A console that keeps its tables."""

    def __init__(self) -> None:
        self.tables: list[FittedTable] = []

    def print(self, what: Any, **options: Any) -> None:
        if isinstance(what, FittedTable):
            self.tables.append(what)


def results_of(name: str) -> Any:
    return json.loads((PROGRAMS / f"{name}.json").read_text())["results"]


@pytest.mark.parametrize("width", [60, 80, PIPE_WIDTH])
@pytest.mark.parametrize("name", ["conv_bodies", "cpu_speed", "op_libraries", "op_bodies", "export_cost"])
def test_programs(monkeypatch: pytest.MonkeyPatch, name: str, width: int) -> None:
    import importlib

    program, kept = importlib.import_module(f"seqexport.exporter.benchmarks.{name}"), Kept()
    monkeypatch.setattr(program, "open_console", lambda: kept)
    program._print(results_of(name), *(("cpu",) if name == "op_libraries" else ()))
    check_whole(*kept.tables, width)


def wide(*, numbers: int, text: str = "ONNX Runtime, target portable, op library") -> FittedTable:
    table = FittedTable(title="A title")
    table.add_column("runs")
    for number in range(numbers):
        table.add_column(f"number {number}", justify="right")
    for row in range(2):
        table.add_row(text, *(f"{row}{number}.25 ms" for number in range(numbers)))
    return table


def test_a_table_that_fits_is_as_rich_draws_it() -> None:
    table = wide(numbers=2)
    plain = Table(title="A title")
    plain.columns, plain.rows = table.columns, table.rows
    assert lines_of(table, 80) == lines_of(plain, 80)


def test_words_wrap_then_the_box_goes_then_rows_become_lines() -> None:
    def first_lines(width: int) -> str:
        return "\n".join(check_whole(wide(numbers=4), width)[:4])

    assert "┃" in first_lines(100)
    assert "┃" in first_lines(68)
    assert "┃" not in first_lines(55) and "──" in first_lines(55)
    lines = check_whole(wide(numbers=4), 45)
    assert lines[:4] == [
        "A title",
        "runs      ONNX Runtime, target portable, op",
        "          library",
        "number 0  00.25 ms",
    ]
    assert "" in lines


def test_empty_cells_and_a_caption_of_rows_as_lines() -> None:
    table = wide(numbers=9)
    table.caption = "The caption"
    table.add_row("only", *[""] * 9)
    assert check_whole(table, 30)[-3:] == ["runs      only", "", "The caption"]


def test_a_mark_stands_before_the_first_value_of_its_row() -> None:
    table = FittedTable()
    for name in ("", "part", "found"):
        table.add_column(name)
    table.add_row("[green]✓[/]", "a_name_of_some_length", "a_value")
    assert check_whole(table, 32) == ["part   ✓ a_name_of_some_length", "found  a_value", ""]


def test_a_word_that_is_wider_than_the_terminal_loses_no_character() -> None:
    path = "/" + "a_long_folder/" * 10 + "lib.so"
    for table in (wide(numbers=0, text=path), wide(numbers=3, text=path)):
        assert path in "".join(part.strip("│ ").removeprefix("runs").strip() for part in lines_of(table, 40))
    facts = FittedTable(show_header=False, box=None)
    facts.add_row("from", path)
    assert path in "".join(line.removeprefix("from").strip() for line in lines_of(facts, 40))


@pytest.mark.parametrize("width", [60, 80, PIPE_WIDTH])
def test_commands(exported: Exported, width: int) -> None:
    from seqexport.runtimes.comparison.verify import Check

    bundle = exported("preset:transformer", target="ort", dtype="float32", logits="all")
    for table in (inspect._interface(bundle.manifest), inspect._states(bundle.manifest), inspect._files(bundle)):
        check_whole(table, width)
    checks = [Check("past_key_values.11.recurrent_state after a prefill in chunks", 1e-7, 2e-7, 4e-7)]
    check_whole(verify._table(checks), width)


@pytest.mark.parametrize("width", [60, 80, PIPE_WIDTH])
def test_measurements(width: int) -> None:
    kept: Any = Kept()
    report.print_table(test_report.both(16e-3, 1e-3), kept)
    points = (*test_report.points(123.4, 1), Point(1, 65536, skipped="the time budget is spent"))
    timed = bench.Bench(1, this_machine(), "a-bundle", "mamba", "float16", "ort", 1 << 30, "ort",
                        "ONNX Runtime", SpeedOptions(), points)  # fmt: skip
    bench.print_table(timed, kept)
    for table in kept.tables:
        check_whole(table, width)
    assert len(kept.tables) == 2


@pytest.mark.parametrize("width", [60, 80])
def test_steps_of_the_gpu_run(width: int) -> None:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    rows = (
        Row("SelectiveScan (8, 2048, 5120) beside mamba_ssm", measured=2.21, unit="times", target=1.5),
        Row("engines/NVIDIA_H200-trt8.6.0.plan", passed=False),
    )
    print_steps(console, [StepResult("kernel_speed", "passed", 123.0, rows)])
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for whole in ("kernel_speed", "2.21 times", "≥ 1.5 times", "engines/NVIDIA_H200-trt8.6.0.plan", "passed", "failed"):
        assert whole in text


@pytest.mark.parametrize(("columns", "longest"), [(None, 200), ("60", 60)])
def test_a_pipe_is_as_wide_as_it_must_be(columns: str | None, longest: int) -> None:
    program = (
        "from seqexport.runtimes.tables import open_console; from tests.runtimes.test_tables import wide;"
        "open_console().print(wide(numbers=12))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    if columns:
        environment["COLUMNS"] = columns
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= longest
    assert ("│ ONNX Runtime, target portable, op library │" in done.stdout) == (columns is None)
