"""Times a whole model in ONNX Runtime: a prompt, then single tokens, and what the GPU's kernels take of a step.

    python -m seqexport.runtimes.benchmarks.ort_speed BUNDLE [--no-plugins] [--repeats 10] [--device cuda] [--lock FILE]

Batch 1. A time counts from the tokens on the host to the logits of the last one on the host; median, warm. With --lock,
it waits until nobody else is timed on the GPU.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.lock import alone, together
from seqexport.runtimes.benchmarks.sizes import CONTEXT, STEPS, WARM_STEPS
from seqexport.runtimes.benchmarks.timing import prefill_seconds, seconds
from seqexport.runtimes.bundle import open_bundle

if TYPE_CHECKING:
    from seqexport.runtimes.ort.runner import Device, OrtRunner

PROMPT, PROFILED_STEPS = 1024, 20


def measure(runner: OrtRunner, repeats: int, *, profiled: bool) -> dict[str, Any]:
    """Seconds of a prompt, of a step, and of the GPU's kernels in a step, None where they cannot be told or are not
    asked for."""
    tokens = np.random.default_rng(0).integers(0, runner.manifest.vocab_size, (1, max(PROMPT, CONTEXT)))
    found: dict[str, Any] = {"layers": layers(runner), "prompt": PROMPT, "context": CONTEXT}
    with runner.session(1, CONTEXT + WARM_STEPS + STEPS + PROFILED_STEPS) as session:
        session.prefill(tokens[:, :CONTEXT])
        step = lambda: session.step(tokens[:, 0])  # noqa: E731
        seconds(step, WARM_STEPS)
        found["step"] = seconds(step, STEPS)
        found["kernels"] = kernel_seconds(step, PROFILED_STEPS) if profiled else None
    found["prefill"] = prefill_seconds(runner, tokens[:, :PROMPT], repeats)
    return found | {"runner": runner.description, "captured": runner.no_graph is None}


def layers(runner: OrtRunner) -> int:
    """Layers that have states."""
    return len({spec.past_name.split(".")[1] for spec in runner.manifest.states})


def kernel_seconds(call: Callable[[], Any], repeats: int) -> float | None:
    """What all kernels of a call take together, as CUPTI tells PyTorch's profiler, whoever launched them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(repeats):
            call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(file))
        total = sum_of_kernels(json.loads(file.read_text()))
    return None if total is None else total / repeats


def sum_of_kernels(trace: dict[str, Any]) -> float | None:
    """Seconds of all kernels in a Chrome trace; None if it has none."""
    microseconds = [event["dur"] for event in trace["traceEvents"] if event.get("cat") == "kernel"]
    return sum(microseconds) / 1e6 if microseconds else None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cuda", show_default=True)
@click.option("--no-plugins", is_flag=True, help="Time the function bodies.")
@click.option("--repeats", default=10, show_default=True, help="Of the prompt, after one that is not counted.")
@click.option("--lock", type=click.Path(path_type=Path))
def main(bundle: Path, device: Device, no_plugins: bool, repeats: int, lock: Path | None) -> None:
    from seqexport.runtimes.ort.runner import OrtRunner

    with together(lock) if lock else nullcontext():
        runner = OrtRunner(open_bundle(bundle), device=device, plugins=not no_plugins)
    with runner, alone(lock) if lock else nullcontext():
        click.echo(json.dumps(measure(runner, repeats, profiled=device == "cuda" and not no_plugins)))


if __name__ == "__main__":
    run(main)
