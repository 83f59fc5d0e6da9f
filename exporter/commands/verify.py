"""``seqexport verify``"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from seqexport.exporter.commands.options import bundle_argument, device_option, no_plugins_option, threads_option
from seqexport.runtimes.tables import FittedTable, open_console

if TYPE_CHECKING:
    from seqexport.runtimes.bundle import Bundle
    from seqexport.runtimes.comparison.verify import Check


@click.command("verify", short_help="Check a bundle's accuracy; exit 1 if out of bounds.")
@bundle_argument
@click.option("--backend", type=click.Choice(["ort", "trt"]), default="ort", show_default=True, help="What runs it.")
@device_option
@threads_option
@no_plugins_option
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(bundle: Path, backend: str, device: str, threads: int | None, no_plugins: bool, as_json: bool) -> None:
    """Check that BUNDLE gives the original's answers on this machine. PyTorch is not needed.

    The bundle carries inputs, and what the PyTorch original makes of them in float64 arithmetic. Logits and every
    state after a whole prefill, a prefill in chunks, and decode steps may be at most twice as far from it as PyTorch
    itself is in the bundle's dtype, and must be finite. What the recorded texts do not reach is said. Exit code: 0
    within bounds, 1 out of bounds, 2 could not run.

    \b
    Example:
      seqexport verify my-model
    """
    from seqexport.runtimes.bundle import open_bundle

    not_checked: list[str] = []
    checks = run_checks(open_bundle(bundle), backend, device, threads, not_checked.append, no_plugins=no_plugins)
    if as_json:
        found = [{**asdict(check), "passed": check.passed} for check in checks]
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        open_console().print(_table(checks))
        for check in checks:
            if check.not_finite:
                click.echo(f"not finite: {check.name}: {check.not_finite}")
    for what in not_checked:
        click.echo(f"not checked: {what}", err=as_json)
    sys.exit(0 if all(check.passed for check in checks) else 1)


def run_checks(
    bundle: Bundle,
    backend: str,
    device: str = "cpu",
    threads: int | None = None,
    not_checked: Callable[[str], None] = lambda what: None,
    *,
    no_plugins: bool = False,
) -> list[Check]:
    """Every check of ``bundle`` on a backend; ``not_checked`` is told what they leave open."""
    from seqexport.runtimes.backends import open_runner
    from seqexport.runtimes.comparison.reference import read_reference
    from seqexport.runtimes.comparison.verify import verify

    reference = read_reference(bundle.reference)
    with open_runner(backend, bundle, device=device, threads=threads, no_plugins=no_plugins) as runner:
        return list(verify(runner, reference, not_checked))


def _table(checks: list[Check]) -> FittedTable:
    table = FittedTable(title="Relative error against the original in float64", title_justify="left")
    table.add_column("quantity")
    for name in ("here", "PyTorch's own", "allowed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else "[bold red]out of bounds[/]"
        verdict = "[bold red]not finite[/]" if check.not_finite else verdict
        table.add_row(check.name, *map(_number, (check.error, check.torch_error, check.allowed)), verdict)
    return table


def _number(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.1e}"
