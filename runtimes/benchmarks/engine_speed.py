"""Times a whole model in TensorRT: a prompt, then single tokens; what torch_speed.py times of the original.

    python -m seqexport.runtimes.benchmarks.engine_speed BUNDLE [--backend trt] [--lock FILE]

Batch 1. A time counts from the tokens on the host to the logits of the last one on the host; median, warm.
``graph`` is what CUDA events give for the step's CUDA graph alone. With --lock, it waits until nobody else is timed on
the GPU.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from seqexport.plugins.errors import UserError
from seqexport.runtimes.backends import open_runner
from seqexport.runtimes.base import Runner
from seqexport.runtimes.benchmarks.cli import run
from seqexport.runtimes.benchmarks.lock import alone, together
from seqexport.runtimes.benchmarks.sizes import ANSWERS, CONTEXT, PROMPT_REPEATS, STEPS, WARM_STEPS
from seqexport.runtimes.benchmarks.timing import answers, prefill_seconds, random_prompt, seconds
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.trt.cuda import Cuda, load_runtime


def measure(runner: Runner) -> dict[str, Any]:
    """Seconds of a prompt, of a step, and of a step's CUDA graph where it launches one; and what it answers."""
    tokens = random_prompt(runner.manifest.vocab_size)
    found: dict[str, Any] = {"runner": runner.description}
    with runner.session(1, CONTEXT + ANSWERS + WARM_STEPS + STEPS) as session:
        session.prefill(tokens[:, :CONTEXT])
        found["answers"] = answers(lambda token: session.step(token[:, 0]), tokens[:, CONTEXT:])
        seconds(lambda: session.step(tokens[:, 0]), WARM_STEPS)
        found["step"] = seconds(lambda: session.step(tokens[:, 0]), STEPS // 2)
        with graph_events() as events:
            seconds(lambda: session.step(tokens[:, 0]), STEPS // 2)
        found["graph"] = statistics.median(elapsed() for elapsed in events) if events else None
    found["prefill"] = prefill_seconds(runner, tokens, PROMPT_REPEATS)
    return found


@contextmanager
def graph_events() -> Iterator[list[Callable[[], float]]]:
    """For each CUDA graph launched inside, what tells the seconds that it took; to be asked after it is done."""
    launch, elapsed = Cuda.launch, []

    def timed(cuda: Cuda, graph: Any) -> None:
        runtime = load_runtime()
        start, end = (_checked(runtime.cudaEventCreate()) for _ in range(2))
        _checked(runtime.cudaEventRecord(start, cuda.stream))
        launch(cuda, graph)
        _checked(runtime.cudaEventRecord(end, cuda.stream))
        elapsed.append(lambda: float(_checked(runtime.cudaEventElapsedTime(start, end))) / 1e3)

    Cuda.launch = timed  # type: ignore[assignment, method-assign]
    try:
        yield elapsed
    finally:
        Cuda.launch = launch  # type: ignore[method-assign]


def _checked(returned: tuple[Any, ...]) -> Any:
    """What a call of CUDA's runtime gives beside its return code."""
    code, *values = returned
    if code.name != "cudaSuccess":
        raise UserError(f"CUDA events: {code.name}")
    return values[0] if values else None


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--backend", default="trt", show_default=True)
@click.option("--lock", type=click.Path(path_type=Path))
def main(bundle: Path, backend: str, lock: Path | None) -> None:
    with together(lock) if lock else nullcontext():
        runner = open_runner(backend, open_bundle(bundle))
    with runner, alone(lock) if lock else nullcontext():
        click.echo(json.dumps(measure(runner)))


if __name__ == "__main__":
    run(main)
