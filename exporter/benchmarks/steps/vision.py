"""Vision models of published shapes, fp16: TensorRT engines beside eager PyTorch with mamba_ssm's kernel.

An engine for each size of a batch, built for it alone, several at a time (--jobs). Both are timed from pictures to
features, host to host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import product
from pathlib import Path
from typing import Any

from seqexport.exporter.benchmarks.bundles import SIDE, Wanted, ensure_another, ensure_bundle, factory_of, for_vision
from seqexport.exporter.benchmarks.peers import try_to_build
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps.engines import build, verify

TARGETS = {1: 3.0, 32: 1.5}
"""Times eager PyTorch, by the size of the batch."""


def run(setting: Setting) -> Iterator[Row]:
    every = for_vision(setting)
    if not every:
        raise LeftOut("none of --models is a vision model")
    setting.require_tensorrt()
    peers = yield from try_to_build(setting)
    with ThreadPoolExecutor(setting.jobs) as pool:
        exported = {wanted: pool.submit(ensure_bundle, setting, wanted) for wanted in every}
        built = {(w, n): pool.submit(_build, setting, w, n, exported[w]) for w, n in product(every, TARGETS)}
        wait(built.values())
    for (wanted, batch), done in built.items():
        try:
            yield from _timed(setting, wanted, batch, done.result(), peers)
        except StepFailed as failure:  # the others are timed all the same
            yield Row(f"{wanted.name}, batch {batch}: speed", passed=False, detail={"error": str(failure)})


def _build(setting: Setting, wanted: Wanted, batch: int, exported: Future[Path]) -> tuple[Wanted, float]:
    """A bundle with an engine for this batch alone, and the seconds that it took, beside others (--jobs)."""
    exported.result()
    another = ensure_another(setting, wanted, f"batch-{batch}")
    shapes = {"--minShapes": 1, "--optShapes": batch, "--maxShapes": batch}
    options = [word for flag, size in shapes.items() for word in (flag, f"image:{size}x3x{SIDE}x{SIDE}")]
    return another, build(setting, another, [*options, "--timingCacheFile", setting.work / f"{another.name}.timing"])


def _timed(setting: Setting, wanted: Wanted, batch: int, built: tuple[Wanted, float], peers: bool) -> Iterator[Row]:
    name, (another, seconds) = f"{wanted.name}, batch {batch}", built
    how = {"seconds": round(seconds, 1), "jobs": setting.jobs, "flags": setting.build_flags}
    yield Row(f"{name}: build", passed=True, detail=how)
    yield verify(setting, another, f"{name}: verify")
    file = setting.work / f"bench-{another.name}.json"
    command = ["bench", another.folder(setting), "--backend", "trt", "--axis", f"batch={batch}", "-o", file]
    setting.tensorrt("exporter.cli", *command, log=f"bench-{another.name}")
    (point,) = json.loads(file.read_text())["points"]
    if point.get("seconds") is None:
        raise StepFailed(f"bench: {point.get('skipped')}")
    yield Row(f"{name}: a call", measured=point["seconds"] * 1e3, unit="ms", detail=point)
    log = f"eager-{another.name}"
    output = setting.torch("exporter.benchmarks.vision_eager", factory_of(wanted.model), batch, log=log,
                           with_peers=peers)  # fmt: skip
    yield speed_row(name, batch, point, json.loads(output.splitlines()[-1]))


def speed_row(name: str, batch: int, engine: dict[str, Any], eager: dict[str, Any]) -> Row:
    """The target is of mamba_ssm's kernel; without it the row says so and has none."""
    kernel = bool(eager["scans"])
    whose = "with mamba_ssm's kernel" if kernel else "without mamba_ssm's kernel, token by token"
    return Row(
        f"{name}: times eager PyTorch {whose}",
        measured=eager["seconds"] / engine["seconds"],
        unit="x",
        target=TARGETS[batch] if kernel else None,
        detail={"eager": eager, "engine": engine},
    )
