"""``seqexport verify``"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape

from seqexport.exporter.commands.options import (
    backend_option,
    bundle_argument,
    device_option,
    plugins_option,
    threads_option,
)
from seqexport.runtimes.encoding import plain
from seqexport.runtimes.tables import FittedTable, open_console

if TYPE_CHECKING:
    from seqexport.runtimes.comparison.verify import Check


@click.command("verify", short_help="Check a bundle's accuracy; exit 1 if out of bounds.")
@bundle_argument
@backend_option
@device_option
@threads_option
@plugins_option
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(bundle: Path, backend: str, as_json: bool, **options: Any) -> None:
    """Check that BUNDLE gives the original's answers on this machine. PyTorch is not needed.

    The bundle carries inputs, and what the PyTorch original makes of them in float64 arithmetic. Logits and every
    state after a whole prefill, a prefill in chunks, and decode steps may be at most twice as far from it as PyTorch
    itself is in the bundle's dtype, and must be finite. What the recorded texts do not reach is said. Exit code: 0
    within bounds, 1 out of bounds, 2 could not run.

    \b
    Example:
      seqexport verify my-model
    """
    from seqexport.exporter.api import verify

    not_checked: list[str] = []
    checks = verify(bundle, backend, not_checked=not_checked.append, **options)
    if as_json:
        found = [{**asdict(check), "passed": check.passed} for check in checks]
        click.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        open_console().print(_table(checks))
        for check in checks:
            if check.not_finite:
                click.echo(plain(f"not finite: {check.name}: {check.not_finite}"))
    for what in not_checked:
        click.echo(plain(f"not checked: {what}"), err=as_json)
    sys.exit(0 if all(check.passed for check in checks) else 1)


def _table(checks: list[Check]) -> FittedTable:
    table = FittedTable(title="Relative error against the original in float64", title_justify="left")
    table.add_column("quantity")
    for name in ("here", "PyTorch's own", "allowed"):
        table.add_column(name, justify="right")
    table.add_column("")
    for check in checks:
        verdict = "[green]ok[/]" if check.passed else "[bold red]out of bounds[/]"
        verdict = "[bold red]not finite[/]" if check.not_finite else verdict
        table.add_row(escape(check.name), *map(_number, (check.error, check.torch_error, check.allowed)), verdict)
    return table


def _number(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.1e}"
