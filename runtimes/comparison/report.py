"""A comparison as a table in the terminal, as JSON, and as one HTML page that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.comparison.accuracy import PROMPTS
from seqexport.runtimes.comparison.compare import TORCH, BackendResult, BundleResult, Comparison
from seqexport.runtimes.comparison.measure import Point
from seqexport.runtimes.comparison.verdict import backend_name, measured, ratio_to_own, verdicts
from seqexport.runtimes.output import write_output
from seqexport.runtimes.tables import FittedTable, open_console

TEMPLATE = "report.html.j2"


def print_table(comparison: Comparison, console: Console | None = None) -> None:
    """Verdicts, and a line for each bundle and backend."""
    console = console or open_console()
    for verdict in verdicts(comparison):
        mark, style = _mark(verdict.good)
        console.print(f"[{style}]{mark}[/] {verdict.text}")
    table = FittedTable(box=None, pad_edge=False, header_style="dim", padding=(0, 1))
    for heading in ("bundle", "backend", ""):
        table.add_column(heading)
    for heading in (
        "error ÷\nPyTorch’s",
        "same\ntoken",
        "bits/\nbyte",
        "prompt\ntokens",
        "first\ntoken",
        "then\ntok/s",
        "state",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for bundle in comparison.bundles:
        for result in bundle.results:
            mark, style = _mark(False if result.error else result.passed)
            name, cells = escape(bundle.name), _cells(bundle, result)
            table.add_row(name, backend_name(result.backend), f"[{style}]{mark}[/]", *cells)
    console.print(table)


def _mark(good: bool | None) -> tuple[str, str]:
    return {True: ("✓", "green"), False: ("✗", "bold red"), None: ("·", "dim")}[good]


def _cells(bundle: BundleResult, result: BackendResult) -> list[str]:
    accuracy, points = result.accuracy, measured(result)
    cells = [units.NONE] * 3
    if accuracy:
        cells = [
            units.ratio(ratio_to_own(bundle, result)),
            units.percent(accuracy.agreement),
            _bits(accuracy.bits_per_byte),
        ]
    if not points:
        return [*cells, *[units.NONE] * 4]
    last = points[-1]
    return [
        *cells,
        units.tokens(last.length),
        units.seconds(last.prefill_seconds),
        units.rate(last.decode_tokens_per_second, unit=""),
        units.size(last.state_bytes),
    ]


def _bits(value: float | None) -> str:
    return units.NONE if value is None else f"{value:.4f}"


def write_html(comparison: Comparison, path: Path) -> None:
    """One page with its charts inside.

    Raises:
        UserError: jinja2 or matplotlib is missing, or the file cannot be written; what was there stays.
    """
    write_output(path, render(comparison).encode())


def render(comparison: Comparison) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise UserError("the report needs jinja2: pip install 'seqexport[report]'") from error
    from seqexport.runtimes.comparison import plots

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        seconds=units.seconds,
        size=units.size,
        rate=units.rate,
        error=units.error,
        ratio=units.ratio,
        percent=units.percent,
        tokens=units.tokens,
        bits=_bits,
        backend=backend_name,
    )
    return environment.get_template(TEMPLATE).render(**_values(comparison, plots))


def _values(comparison: Comparison, plots: Any) -> dict[str, Any]:
    timed = any(measured(result) for bundle in comparison.bundles for result in bundle.results)
    return {
        "comparison": comparison,
        "machine": comparison.machine,
        "verdicts": verdicts(comparison),
        "TORCH": TORCH,
        "PROMPTS": PROMPTS,
        "ratio_to_own": ratio_to_own,
        "worst_state": worst_state,
        "sizes": sizes,
        "point": point,
        "longest": longest,
        "prefill": plots.prefill(comparison) if timed else "",
        "decode": plots.decode(comparison) if timed else "",
        "states": plots.states(comparison),
        "steps": [
            (bundle, plots.steps(bundle, color))
            for bundle, color in zip(comparison.bundles, plots.MODELS, strict=False)
            if bundle.own
        ],
    }


def worst_state(result: BackendResult) -> Any:
    """The check of a state that comes nearest to what is allowed, or passes it furthest; None without any."""
    states = [check for check in result.checks if not check.what.startswith("logits")]
    return max(states, key=lambda c: float("inf") if c.error is None else c.error / c.allowed, default=None)


def sizes(bundle: BundleResult) -> list[tuple[int, int]]:
    """Every (batch, length) asked for."""
    return sorted({(p.batch, p.length) for result in bundle.results for p in result.points})


def longest(result: BackendResult) -> Point | None:
    return max(measured(result), key=lambda p: p.length, default=None)


def point(result: BackendResult, batch: int, length: int) -> Point | None:
    return next((p for p in result.points if (p.batch, p.length) == (batch, length)), None)
