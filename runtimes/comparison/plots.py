"""The report's charts, as SVG that takes its colours and fonts from the page around it."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqexport.plugins.errors import UserError
from seqexport.runtimes import units
from seqexport.runtimes.comparison.accuracy import ALLOWED, ROUNDING, Accuracy
from seqexport.runtimes.comparison.compare import TORCH, BackendResult, BundleResult, Comparison
from seqexport.runtimes.comparison.measure import Point
from seqexport.runtimes.comparison.verdict import backend_name, crossings, measured
from seqexport.runtimes.output import write_output

if TYPE_CHECKING:
    from matplotlib.axes import Axes

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator
except ImportError as error:
    raise UserError("the report needs matplotlib: pip install 'seqexport[report]'") from error

INK, FAINT, GRID, BAD = "#010101", "#020202", "#030303", "#040404"
MODELS = ("#050505", "#060606", "#070707", "#080808")
VARIABLES = {INK: "ink", FAINT: "faint", GRID: "grid", BAD: "bad"} | {
    color: f"model-{number}" for number, color in enumerate(MODELS, 1)
}
"""Stand-ins that become the page's CSS variables, so that the charts follow light and dark."""

SIZE, LINE = (5.0, 3.5), 0.062
"""Of a chart in inches, and of a line of text as a share of its height."""
MOST_LETTERS = 15
MOST_NAMED = 2
"""Bundles of which every line has room for its name."""

EARLY = 0.65
"""Share of the width within which a name still fits to the right of its line."""

FEW_DECADES = 30
"""Between 10 and 100 one tick a decade leaves an axis bare."""

PALETTE = Path(__file__).parent / "templates" / "palette.css"
FONTS = "system-ui, sans-serif"
WIDTH, THIN, DASHES = 2.2, 1.3, (4, 2.5)
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
}


def prefill(comparison: Comparison) -> str:
    """Time to first token by length of the prompt, and where the models cross."""

    def draw(axes: Axes) -> None:
        _log_tokens(axes, "tokens in the prompt")
        axes.set_yscale("log")
        labels = _lines(axes, comparison, lambda point: point.prefill_seconds)
        for crossing in crossings(comparison):
            if crossing.where == "inside" and crossing.tokens and crossing.seconds:
                _mark(axes, crossing.tokens, crossing.seconds, backend_name(crossing.backend))
        _log_units(axes, units.seconds)
        _place(axes, labels)

    return _svg("Time to first token by tokens in the prompt", draw)


def decode(comparison: Comparison) -> str:
    """Time of one more token by the tokens of its sequence so far."""

    def draw(axes: Axes) -> None:
        _log_tokens(axes, "tokens before it")
        axes.set_yscale("log")
        labels = _lines(axes, comparison, lambda point: point.decode_seconds)
        _log_units(axes, units.seconds)
        _place(axes, labels)

    return _svg("Time of one more token by tokens before it", draw)


def states(comparison: Comparison) -> str:
    """Bytes of all states of one sequence: a line from the manifest, a dot where they were held."""

    def draw(axes: Axes) -> None:
        _log_tokens(axes, "tokens held")
        _log_units(axes, units.size, base=2)
        labels = []
        for color, bundle in zip(MODELS, comparison.bundles, strict=False):
            x, y = [s.tokens for s in bundle.states], [s.bytes for s in bundle.states]
            axes.plot(x, y, color=color, lw=WIDTH)
            held = {p.length: p.state_bytes or 0 for r in bundle.results for p in measured(r)}
            axes.plot(list(held), list(held.values()), "o", color=color, ms=5)
            labels.append((x[-1], float(y[-1]), _short(bundle.name), color))
        _place(axes, labels)

    return _svg("Bytes of state by tokens held", draw)


def steps(bundle: BundleResult, color: str) -> str:
    """Error of the logits along the decode steps, PyTorch's own, and what is allowed."""

    def draw(axes: Axes) -> None:
        assert bundle.own is not None
        _log_tokens(axes, "decode step", base=10)
        axes.set_yscale("log")
        x, own = _curve(bundle.own)
        rounding = ROUNDING[bundle.dtype]
        allowed = [ALLOWED * max(value, rounding) for value in own]
        axes.plot(x, own, color=FAINT, lw=THIN, dashes=DASHES)
        axes.plot(x, allowed, color=BAD, lw=THIN)
        labels = [
            (x[-1], own[-1], backend_name(TORCH), FAINT),
            (x[-1], allowed[-1], "allowed", BAD),
        ]
        top, bottom = max(allowed) * 4, min(own) / 3
        for result in bundle.results:
            if result.backend != TORCH and result.accuracy:
                xs, ys = _curve(result.accuracy)
                axes.plot(xs, ys, color=color, lw=WIDTH)
                top, bottom = max(top, max(ys) * 1.5), min(bottom, min(ys) / 1.5)
                labels.append((xs[-1], ys[-1], backend_name(result.backend), color))
        axes.set_ylim(bottom, top)
        axes.fill_between(x, allowed, top, color=BAD, alpha=0.07, lw=0)
        _log_units(axes, units.error)
        _place(axes, labels)

    return _svg(f"Error of the logits of {bundle.name} by decode step", draw)


@dataclass(frozen=True)
class Curve:
    """A named line of a chart against a size."""

    name: str
    sizes: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Up to four curves; ``unit`` tells a value in words, and ``base`` is of the logarithmic axis of values."""

    title: str
    curves: Sequence[Curve]
    unit: Callable[[float], str]
    base: int = 10


def write_charts(path: Path, size: str, charts: Sequence[Chart]) -> None:
    """Write charts against a size side by side, all axes logarithmic, as an SVG file that follows light and dark.

    Args:
        size: what lies along the horizontal axes.

    Raises:
        UserError: the file cannot be written.
    """
    width, height = (round(72 * inches) for inches in SIZE)
    parts = []
    for index, chart in enumerate(charts):
        svg = _svg(chart.title, functools.partial(_draw_chart, chart, size))
        parts.append(svg.replace("<svg", f'<svg x="{index * width}" width="{width}" height="{height}"', 1))
    sizes = f'width="{width * len(charts)}" height="{height}" viewBox="0 0 {width * len(charts)} {height}"'
    root = f'<svg xmlns="http://www.w3.org/2000/svg" {sizes}>'
    style = f"<style>{PALETTE.read_text()}svg {{ background: var(--card); font-family: {FONTS}; }}</style>"
    write_output(path, "\n".join([root, style, *parts, "</svg>\n"]).encode())


def _draw_chart(chart: Chart, size: str, axes: Axes) -> None:
    _log_tokens(axes, size)
    labels = []
    for color, curve in zip(MODELS, chart.curves, strict=False):
        axes.plot(curve.sizes, curve.values, color=color, marker="o", ms=4, lw=WIDTH)
        labels.append((curve.sizes[-1], curve.values[-1], curve.name, color))
    axes.text(0.03, 0.97, chart.title, transform=axes.transAxes, va="top", fontweight="bold")
    _log_units(axes, chart.unit, chart.base)
    _place(axes, labels)


def _curve(accuracy: Accuracy) -> tuple[list[int], list[float]]:
    kept = [(s.step, s.error) for s in accuracy.steps if s.error]
    return [step for step, _ in kept] or [1], [error for _, error in kept] or [1.0]


def _mark(axes: Axes, tokens: float, seconds: float, backend: str) -> None:
    """A ring where two curves cross, and a line down to how many tokens that is.

    That is said to the right of the line, below the rising curves, where it fits there.
    """
    bottom = axes.get_ylim()[0]
    axes.plot([tokens, tokens], [bottom, seconds], color=INK, lw=0.8, dashes=(1, 2), zorder=1)
    axes.plot(tokens, seconds, "o", ms=11, mfc="none", mec=INK, mew=1.2, zorder=5)
    axes.set_ylim(bottom=bottom)
    early = _fractions(axes, tokens, seconds)[0] < EARLY
    axes.annotate(
        f"{backend} crosses\nat {units.about(tokens)} tokens",
        (tokens, 0.02),
        (5 if early else -5, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="left" if early else "right",
        va="bottom",
        fontsize=9,
        fontweight="bold",
    )


Label = tuple[float, float, str, str]


def _lines(axes: Axes, comparison: Comparison, value: Callable[[Point], float | None]) -> list[Label]:
    """A line for each model and backend; PyTorch's is thin and dashed, and of many models has no name of its own."""
    labels: list[Label] = []
    crowded = len(comparison.bundles) > MOST_NAMED
    backends = {result.backend for bundle in comparison.bundles for result in bundle.results} - {TORCH}
    for color, bundle in zip(MODELS, comparison.bundles, strict=False):
        for result in bundle.results:
            points = [(p.length, v) for p in measured(result) if (v := value(p))]
            if points:
                x, y = [p[0] for p in points], [p[1] for p in points]
                axes.plot(x, y, color=color, marker="o", ms=4, **_stroke(result))
                name = f"{_short(bundle.name)}\n{backend_name(result.backend)}"
                if not crowded or result.backend != TORCH:
                    name = _short(bundle.name) if crowded and len(backends) == 1 else name
                    labels.append((x[-1], y[-1], name, color))
    return labels


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"


def _stroke(result: BackendResult) -> dict[str, Any]:
    return {"lw": THIN, "dashes": DASHES} if result.backend == TORCH else {"lw": WIDTH}


def _log_tokens(axes: Axes, label: str, base: int = 2) -> None:
    axes.set_xscale("log", base=base)
    axes.set_xlabel(label)
    axes.xaxis.set_major_locator(LogLocator(base=base, numticks=5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tokens(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _log_units(axes: Axes, unit: Callable[[float], str], base: int = 10) -> None:
    axes.set_yscale("log", base=base)
    low, high = axes.get_ylim()
    few = base == 10 and high / low < FEW_DECADES
    axes.yaxis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if few else (1,), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(unit(value))))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_locator(NullLocator())


def _tick(text: str) -> str:
    """Without what a round number does not need: 1.00 s is 1 s, 1.0 × 10⁻⁶ is 10⁻⁶."""
    text = re.sub(r"(\d)\.0+(?!\d)", r"\1", text)
    return text.removeprefix(f"1{units.THIN}×{units.THIN}")


def _place(axes: Axes, labels: Sequence[Label]) -> None:
    """Name each line where it ends early, or in the right margin, where names are kept apart."""
    limits = axes.get_ylim()
    lowest = float("-inf")
    margin = []
    for x, y, text, color in sorted(labels, key=lambda label: label[1]):
        across, height = _fractions(axes, x, y)
        if across < EARLY:
            _name(axes, text, (x, y), "data", color)
            continue
        lowest = max(height, lowest + LINE * (1 + text.count("\n")))
        margin.append((lowest, text, color))
    overflow = max(0.0, lowest - 1.0)
    for height, text, color in margin:
        _name(axes, text, (1.0, height - overflow), "axes fraction", color)
    axes.set_ylim(*limits)


def _fractions(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Where a point of the data is, as shares of the axes' width and height."""
    across, height = (axes.transData + axes.transAxes.inverted()).transform((x, y))
    return float(across), float(height)


def _name(axes: Axes, text: str, at: tuple[float, float], coordinates: str, color: str) -> None:
    axes.annotate(
        text,
        at,
        (7, 0),
        xycoords=coordinates,
        textcoords="offset points",
        color=color,
        va="center",
        fontsize=9,
        fontweight="bold",
        linespacing=1.1,
        annotation_clip=False,
    )


def _svg(label: str, draw: Callable[[Axes], None]) -> str:
    with _style(label):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes((0.14, 0.13, 0.6, 0.83))
        draw(axes)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    return _inline(stream.getvalue(), label)


@contextmanager
def _style(name: str) -> Iterator[None]:
    style: Any = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        yield


def _inline(svg: str, label: str) -> str:
    """An <svg> element without size, fonts or common ids, its stand-in colours made CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' id="[a-zA-Z.0-9]+_\d+"', "", svg)
    svg = re.sub(r" font-family: [^;\"]+;?", "", svg)
    svg = re.sub(r"font: (?:(\w+) )?([\d.]+)px [^;\"]+", _font, svg)
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1)


def _font(match: re.Match[str]) -> str:
    weight = "600" if match[1] in ("bold", "700") else "400"
    return f"font-weight: {weight}; font-size: {match[2]}px"
