"""The GPU run: builds, checks and times everything that needs an NVIDIA GPU, on whatever GPU is here.

    python -m seqexport.exporter.benchmarks.gpu [--only kernels,sanitizer] [-o gpu.json]

This interpreter needs PyTorch, transformers and pytest; TensorRT may be in another one (--tensorrt-python). What is
missing is left out and said. Results are kept in --work, so that a run may be made in parts; the file has them all, and
of a step that is cut off what it found until then.
Targets are those for one H100; a missed target is shown, and does not fail the run.
"""

from __future__ import annotations

import datetime
import importlib
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import click
from rich.console import Console
from rich.markup import escape

from seqexport.exporter.benchmarks.results import (
    FORMAT_VERSION,
    Report,
    Results,
    Row,
    StepResult,
    print_table,
)
from seqexport.exporter.benchmarks.setting import DTYPES, LeftOut, Setting, StepFailed, find_gpu
from seqexport.plugins.errors import UserError
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.output import write_json
from seqexport.runtimes.tables import open_console

STEPS = {
    "prepare": "prepare",
    "build": "plugin_build",
    "kernels": "kernel_tests",
    "sanitizer": "sanitizer",
    "harness": "harness",
    "onnxruntime": "onnxruntime",
    "engines": "engines",
    "speed": "kernel_speed",
    "models": "models",
    "vision": "vision",
    "embedded": "embedded",
    "serving": "serving",
}
"""In the order in which they run, and their modules in ``steps``."""

MOST = 800
"""Characters of a reason that are shown; the file has all of it."""

CUT_OFF = "it was ended before it was done"
"""Why a step's rows so far are not all."""

Step = Callable[[Setting], Iterator[Row]]


def load_step(name: str) -> Step:
    step: Step = importlib.import_module(f"seqexport.exporter.benchmarks.steps.{STEPS[name]}").run
    return step


def run_step(
    name: str, step: Step, setting: Setting, found: Callable[[StepResult], None] = lambda result: None
) -> StepResult:
    """All rows that the step finds before it ends, however it ends; ``found`` is given those so far after each."""
    rows: list[Row] = []
    start = perf_counter()

    def result(status: str, why: str = "") -> StepResult:
        seconds, today = round(perf_counter() - start, 1), datetime.date.today().isoformat()
        return StepResult(name, status, seconds, tuple(rows), why, today)  # type: ignore[arg-type]

    try:
        for row in step(setting):
            rows.append(row)
            found(result("failed", CUT_OFF))
    except LeftOut as reason:
        return result("left out", str(reason))
    except (StepFailed, UserError) as reason:
        return result("failed", str(reason))
    except Exception as error:  # the other steps still run
        return result("failed", f"{type(error).__name__}: {error}")
    failed = [row.name for row in rows if row.passed is False]
    return result("failed", f"failed: {', '.join(failed)}") if failed else result("passed")


def _names(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(filter(None, value.split(",")))
    known = {"only": tuple(STEPS), "dtypes": DTYPES}.get(parameter.name or "", names)
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{unknown[0]}: expected some of {','.join(known)}")
    return names


def _words(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(shlex.split(value))


folder_type = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--only", default="", callback=_names, help=f"Steps, separated by commas: {','.join(STEPS)}.")
@click.option("--models", default="", callback=_names, help="Which models, separated by commas [default: all].")
@click.option(
    "--dtypes", default=",".join(DTYPES), show_default=True, callback=_names, help="Of the engines that are verified."
)
@click.option("--bundle", "bundles", multiple=True, type=folder_type, help="Engines of this one instead; repeatable.")
@click.option("--tensorrt-python", default=sys.executable, help="An interpreter with TensorRT [default: this one].")
@click.option("--tensorrt-path", help="Its PYTHONPATH [default: the same as here].")
@click.option(
    "--build-flags", default="", callback=_words, help='For every `seqexport build`, as in "--memPoolSize …".'
)
@click.option("--plugin-flags", default="", callback=_words, help="For `seqexport plugins build`.")
@click.option("--sdists", type=folder_type, help="Source distributions of mamba_ssm and causal-conv1d.")
@click.option("--jobs", default=1, show_default=True, help="Programs on the GPU at a time where nothing is timed.")
@click.option("--timeout", default=560.0, show_default=True, help="Seconds that one program may take.")
@click.option("--work", default=Path("build/gpu"), show_default=True, type=folder_type, help="What is made once.")
@click.option("-o", "--output", default=Path("gpu.json"), show_default=True, type=click.Path(path_type=Path))
def command(only: tuple[str, ...], output: Path, work: Path, **options: object) -> None:
    """Build, check and time everything that needs an NVIDIA GPU."""
    setting = Setting(gpu=find_gpu(), work=work.resolve(), **options)  # type: ignore[arg-type]
    console, results = open_console(), Results(setting.work / "results", STEPS)
    steps = [name for name in STEPS if not only or name in only]

    def found(part: StepResult) -> None:
        results.keep_part(part)
        _write(output, setting, results)
        _say(console, part.rows[-1])

    for name in steps:
        with console.status(f"{name} ..."):
            result = run_step(name, load_step(name), setting, found)
        results.keep(result)
        _write(output, setting, results)
        console.print(f"{name}: {result.status} after {result.seconds:.0f} s", highlight=False)
    kept = results.read()
    print_table(console, kept.values())
    sys.exit(1 if any(kept[name].status == "failed" for name in steps) else 0)


def _say(console: Console, row: Row) -> None:
    held = {True: "✓", False: "✗", None: " "}[row.passed]
    measured = "" if row.measured is None else f"{row.measured:.4g} {row.unit}"
    line = f"  {held} {row.name} {measured} {row.reason[:MOST]}".rstrip()
    console.print(escape(line), highlight=False, soft_wrap=True)


def _write(output: Path, setting: Setting, results: Results) -> None:
    steps = tuple(results.read().values())
    report = Report(FORMAT_VERSION, setting.gpu.name, setting.gpu.capability, this_machine(), steps)
    write_json(output, report)


if __name__ == "__main__":
    run(command)
