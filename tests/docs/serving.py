"""The table and the picture of a server under many streams, from a GPU run's step ``serving``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqexport.exporter.benchmarks.results import Row, StepResult
from seqexport.runtimes.comparison.plots import Chart, Curve, write_charts

NAMES = {"mamba-1.4b": "Mamba, 1.4 B", "llama-1.4b": "Llama, 1.4 B"}
RUNTIMES = {"fp16": "TensorRT", "fp16-portable": "ONNX Runtime"}
SHORT = {"TensorRT": "TensorRT", "ONNX Runtime": "ORT"}
Served = dict[tuple[str, str], list[dict[str, Any]]]
"""Of a model in a runtime: what each number of streams gave."""


def served(step: StepResult) -> Served:
    """Tokens/s by the model's and the runtime's names."""
    found: Served = {}
    for row in step.rows:
        model, _, form = row.name.partition(":")[0].partition("-fp16")
        if "over_http" in row.detail and model in NAMES:
            found.setdefault((NAMES[model], RUNTIMES[f"fp16{form}"]), []).append(_tokens(row))
    return found


def _tokens(row: Row) -> dict[str, Any]:
    server, n = row.detail["over_http"], row.detail["over_http"]["streams"]
    own = n / row.detail["step_seconds"]
    return {"streams": n, "server": server["tokens_per_second"], "engine": own, "gap_p99": server["gap_p99"]}


def lines(found: Served) -> Iterator[str]:
    """Of a table: model and runtime, streams, tokens/s over HTTP, the engine's own, its share, the longest gap."""
    for (model, runtime), points in found.items():
        for point in points:
            cells = [
                f"{model}, {runtime}",
                str(point["streams"]),
                f"{point['server']:,.0f}",
                f"{point['engine']:,.0f}",
                f"{point['server'] / point['engine']:.0%}",
                f"{point['gap_p99'] * 1e3:.3g} ms",
            ]
            yield f"| {' | '.join(cells)} |"


def draw(found: Served, file: Path) -> None:
    """A chart for each model: tokens/s against streams, of the server and of the engine alone."""
    models = dict.fromkeys(model for model, _ in found)
    write_charts(file, "streams", [Chart(model, _curves(found, model), _rate) for model in models])


def _curves(found: Served, model: str) -> list[Curve]:
    return [
        Curve(f"{SHORT[runtime]}{suffix}", [point["streams"] for point in points], [point[what] for point in points])
        for (its, runtime), points in found.items()
        for what, suffix in (("server", ", served"), ("engine", ""))
        if its == model
    ]


def _rate(value: float) -> str:
    return f"{value:,.0f}/s"
