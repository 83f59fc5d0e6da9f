"""``seqexport inspect --device``: what a bundle needs on a board, as a table."""

from __future__ import annotations

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from seqexport.runtimes import units
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.fit.estimate import Fit, Phase
from seqexport.runtimes.tables import FittedTable

PHASES: dict[Phase, str] = {"run": "to run", "load": "to load", "build": "to build"}


def fit_table(bundle: Bundle, fit: Fit) -> Group:
    """The board, each part of the memory by phase, whether it fits, and what to change."""
    return Group(_facts(bundle, fit), _parts(fit), *_advice(fit))


def _facts(bundle: Bundle, fit: Fit) -> FittedTable:
    board, sizes = fit.board, fit.sizes
    table = FittedTable(
        title=f"{escape(str(bundle.path))} on {board.title}", title_justify="left", show_header=False, box=None
    )
    memory = f"{board.memory_gib:g} GiB{' for CPU and GPU' if board.is_jetson else ''}"
    gpu = f", compute capability {board.compute_capability}" if board.compute_capability else ""
    calls = f"{sizes.rows} x {sizes.chunk:,} tokens" if fit.runtime == "TensorRT" else f"{sizes.chunk:,} tokens"
    for name, value in (
        ("board", f"{memory}, about {board.system_gib:g} GiB of it the system's; {board.bandwidth_gb_s:g} GB/s{gpu}"),
        *([("", board.note)] if board.note else []),
        ("runs in", f"{fit.runtime}, {fit.dtype}"),
        ("for", f"{sizes.batch} of {sizes.length:,} tokens; the largest call {calls}"),
        ("a token", _floor(fit)),
        ("source", f"{board.source}, entered {board.date}"),
    ):
        table.add_row(f"[dim]{name}[/]", escape(value))
    return table


def _floor(fit: Fit) -> str:
    if fit.floor_seconds is None:
        return "no floor is known: which experts are read, the tokens decide"
    full = ", caches full," if any(part.name.startswith("caches") for part in fit.parts) else ""
    floor = units.seconds(fit.floor_seconds)
    return f"{floor} is the floor: all that it reads{full} by the peak bandwidth; no step reaches it"


def _parts(fit: Fit) -> FittedTable:
    table = FittedTable(title="Memory (~ estimated)", title_justify="left")
    table.add_column("part")
    for phase in fit.phases:
        table.add_column(PHASES[phase], justify="right")
    for part in fit.parts:
        sizes = (f"{'~' * part.estimate}{units.size(part.bytes)}" if p in part.phases else "" for p in fit.phases)
        table.add_row(escape(part.name), *sizes)
    table.add_section()
    table.add_row("together", *(units.size(fit.needed(phase)) for phase in fit.phases))
    table.add_row("free", *(f"~{units.size(fit.board.free_bytes)}" for _ in fit.phases))
    table.add_row("fits", *("yes" if fit.fits(phase) else "[bold]no[/]" for phase in fit.phases))
    return table


def _advice(fit: Fit) -> list[Text]:
    return [Text(f"- {each}") for each in fit.advice]
