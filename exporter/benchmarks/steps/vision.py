"""Vision models of published shapes, fp16: TensorRT engines beside eager PyTorch with mamba_ssm's kernel.

An engine for each size of a batch, built for it alone. Both are timed from pictures to features, host to host.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from seqexport.exporter.benchmarks.bundles import SIDE, Wanted, ensure_bundle, factory_of, for_vision
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
    for wanted in every:
        yield from _model(setting, wanted, peers)


def _model(setting: Setting, wanted: Wanted, peers: bool) -> Iterator[Row]:
    """What fails at one size of a batch does not keep the others from being timed."""
    try:
        ensure_bundle(setting, wanted)
    except StepFailed as failure:
        yield Row(f"{wanted.name}: export", passed=False, detail={"error": str(failure)})
        return
    for batch in TARGETS:
        name = f"{wanted.name}, batch {batch}"
        try:
            yield from _engine(setting, wanted, batch, name, peers)
        except StepFailed as failure:
            yield Row(f"{name}: speed", passed=False, detail={"error": str(failure)})


def _engine(setting: Setting, wanted: Wanted, batch: int, name: str, peers: bool) -> Iterator[Row]:
    shapes = {"--minShapes": 1, "--optShapes": batch, "--maxShapes": batch}
    options = [word for flag, size in shapes.items() for word in (flag, f"image:{size}x3x{SIDE}x{SIDE}")]
    cache = setting.work / f"{wanted.name}.timing"
    built = build(setting, wanted, [*options, "--timingCacheFile", cache], f"-batch-{batch}")
    yield Row(f"{name}: build", passed=True, detail={"seconds": round(built, 1), "flags": setting.build_flags})
    yield verify(setting, wanted, f"{name}: verify")
    file = setting.work / f"bench-{wanted.name}-batch-{batch}.json"
    command = ["bench", wanted.folder(setting), "--backend", "trt", "--axis", f"batch={batch}", "-o", file]
    setting.tensorrt("exporter.cli", *command, log=f"bench-{wanted.name}-batch-{batch}")
    (point,) = json.loads(file.read_text())["points"]
    if point.get("seconds") is None:
        raise StepFailed(f"bench: {point.get('skipped')}")
    yield Row(f"{name}: a call", measured=point["seconds"] * 1e3, unit="ms", detail=point)
    log = f"eager-{wanted.name}-batch-{batch}"
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
