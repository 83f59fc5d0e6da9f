"""A server under many streams, models of 1.4 B parameters: its tokens/s over HTTP beside those of the engine alone.

In TensorRT, by an engine that is built for so many sequences, and in ONNX Runtime's CUDA provider. The server wants the
extra ``serve`` in the interpreter that runs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqexport.exporter.benchmarks.bundles import LARGE, Wanted, ensure_another, ensure_bundle
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps.engines import build
from seqexport.exporter.benchmarks.steps.onnxruntime import require_provider
from seqexport.runtimes.benchmarks.lock import alone
from seqexport.runtimes.serve.requests import Limits

STREAMS = (1, 16, 64, 256)
PROMPT, TOKENS, STEPS = 32, 256, 64
SHARE = 0.7
"""Of the engine's own tokens/s at the largest batch, that reach the clients."""


def run(setting: Setting) -> Iterator[Row]:
    every = [Wanted(model, "fp16", target=target) for model in LARGE for target in ("tensorrt", "portable")]
    every = [wanted for wanted in every if setting.wants(wanted.model)]
    if not every:
        raise LeftOut(f"none of --models is of {', '.join(LARGE)}")
    for wanted in every:
        try:
            yield from _served(setting, wanted)
        except (StepFailed, LeftOut) as failure:
            yield Row(f"{wanted.name}: served", passed=False, detail={"error": str(failure)})


def _served(setting: Setting, wanted: Wanted) -> Iterator[Row]:
    program: Callable[..., str]
    if wanted.target == "tensorrt":
        setting.require_tensorrt()
        program, folder = setting.tensorrt, _with_engine(setting, wanted)
        asked = [folder, "--backend", "trt"]
    else:
        require_provider()
        program, folder = setting.torch, ensure_bundle(setting, wanted)
        asked = [folder, "--backend", "ort", "--device", "cuda"]
    numbers = ",".join(map(str, STREAMS))
    bench, served = (setting.work / f"{what}-{wanted.name}.json" for what in ("bench", "serve"))
    sizes = ["--batches", numbers, "--lengths", PROMPT, "--steps", STEPS, "--repeats", 1, "-o", bench]
    streams = ["--streams", numbers, "--tokens", TOKENS, "--rounds", 1, "-o", served]
    with alone(setting.work / "gpu.lock"):
        program("exporter.cli", "bench", *asked, *sizes, log=f"bench-{wanted.name}-batches")
        program("runtimes.benchmarks.serve_speed", *asked, *streams, log=f"serve-{wanted.name}")
    yield from rows(wanted.name, *(json.loads(file.read_text()) for file in (bench, served)))


def _with_engine(setting: Setting, wanted: Wanted) -> Path:
    """A bundle whose engine takes as many sequences as there are streams."""
    another = ensure_another(setting, wanted, "served")
    folder = another.folder(setting)
    if not list(folder.glob("engines/*.plan")):
        chunk, most = Limits().chunk, max(STREAMS)
        shapes = {"--minShapes": (1, 1), "--optShapes": (most, chunk), "--maxShapes": (most, chunk)}
        build(setting, another, [word for flag, (n, m) in shapes.items() for word in (flag, f"input_ids:{n}x{m}")])
    return folder


def rows(name: str, bench: dict[str, Any], served: dict[str, Any]) -> Iterator[Row]:
    """For each number of streams: tokens/s of all of them, and what share of the engine's own that is."""
    steps = {point["batch"]: point for point in bench["points"]}
    for engine, server in zip(served["engine"], served["server"], strict=True):
        n = server["streams"]
        step = steps[n]["decode_seconds"]
        if step is None:
            raise StepFailed(f"bench, batch {n}: {steps[n]['skipped']}")
        detail = {"step_seconds": step, "without_http": engine, "over_http": server, "runner": served["runner"]}
        yield Row(f"{name}: {n} streams", measured=server["tokens_per_second"], unit="tokens/s", detail=detail)
        yield Row(
            f"{name}: {n} streams: share of the engine's own tokens/s",
            measured=server["tokens_per_second"] * step / n,
            target=SHARE if n == max(STREAMS) else None,
        )
