"""Whole models with random weights, fp16, batch 1: TensorRT engines beside transformers, eager and compiled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from seqexport.exporter.benchmarks.bundles import Wanted, ensure_bundle, for_speed
from seqexport.exporter.benchmarks.peers import build_peers
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps.engines import build
from seqexport.runtimes.benchmarks.lock import alone, together
from seqexport.runtimes.benchmarks.sizes import CONTEXT, PROMPT

TARGETS = {"eager": 3.0, "compiled": 1.5, "prefill": 1.5}


def run(setting: Setting) -> Iterator[Row]:
    every = for_speed(setting)
    if not every:
        raise LeftOut("none of --models is timed whole")
    setting.require_tensorrt()
    for wanted in every:
        ensure_bundle(setting, wanted)
    try:
        build_peers(setting)
        peers = True
    except LeftOut as reason:
        yield Row("mamba_ssm and causal-conv1d", detail={"left out": str(reason)})
        peers = False
    lock = setting.work / "gpu.lock"
    with ThreadPoolExecutor(setting.jobs) as builders, ThreadPoolExecutor(3 * len(every)) as pool:
        plans = {wanted: builders.submit(_ensure_engine, setting, wanted, lock) for wanted in every}
        original = {w: [pool.submit(_torch, setting, w, p, lock) for p in _ways(w, peers)] for w in every}
        engines = {wanted: pool.submit(_engine, setting, wanted, plans[wanted], lock) for wanted in every}
        for wanted in every:
            try:
                runs = [run.result() for run in original[wanted]]
                yield from rows(wanted, runs, engines[wanted].result())
            except StepFailed as failure:
                yield Row(wanted.name, passed=False, detail={"error": str(failure)})


def _ways(wanted: Wanted, peers: bool) -> tuple[bool, ...]:
    """Without the peers' kernels, and where they have any for this model, with them."""
    return (False, True) if peers and wanted.model.startswith("mamba") else (False,)


def _torch(setting: Setting, wanted: Wanted, peers: bool, lock: Path) -> dict[str, Any]:
    options = ["--lock", lock, *(["--expect-peers"] if peers else [])]
    log = f"torch-speed-{wanted.name}{'-peers' if peers else ''}"
    command = ["runtimes.benchmarks.torch_speed", wanted.checkpoint(setting), *options]
    output = setting.torch(*map(str, command), log=log, with_peers=peers)
    return {"peers": peers, **json.loads(output.splitlines()[-1])}


def _ensure_engine(setting: Setting, wanted: Wanted, lock: Path) -> None:
    """Built alone on the GPU, since TensorRT chooses by timing, unless --jobs lets several be built at a time."""
    with alone(lock) if setting.jobs == 1 else together(lock):
        if not list((wanted.folder(setting) / "engines").glob("*.plan")):
            build(setting, wanted, ["--timingCacheFile", setting.work / f"{wanted.name}.timing"])


def _engine(setting: Setting, wanted: Wanted, plan: Future[None], lock: Path) -> dict[str, Any]:
    plan.result()
    with alone(lock):
        module = "runtimes.benchmarks.engine_speed"
        output = setting.tensorrt(module, wanted.folder(setting), log=f"engine-speed-{wanted.name}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return {**found, "build_flags": setting.build_flags}


def rows(wanted: Wanted, original: list[dict[str, Any]], engine: dict[str, Any]) -> Iterator[Row]:
    """How many times faster the engine is than the fastest of the original's runs."""
    detail = {"torch": original, "engine": engine}
    asked = {"eager": ("eager_step", "step"), "compiled": ("compiled_step", "step"), "prefill": ("prefill", "prefill")}
    titles = {
        "eager": f"decode after {CONTEXT} tokens, times transformers eager",
        "compiled": f"decode after {CONTEXT} tokens, times torch.compile",
        "prefill": f"prefill of {PROMPT} tokens, times transformers",
    }
    for what, (theirs, ours) in asked.items():
        times = [run[theirs] for run in original if theirs in run]
        measured = min(times) / engine[ours] if times else None
        reason = {} if times else {"error": "; ".join(run.get("compiled_error", "") for run in original)}
        yield Row(
            f"{wanted.name}: {titles[what]}",
            passed=None if times else False,
            measured=measured,
            unit="x",
            target=TARGETS[what],
            detail={"original_seconds": times, "engine_seconds": engine[ours], **reason},
        )
    yield Row(f"{wanted.name}: decode", measured=engine["step"] * 1e3, unit="ms", detail=detail)
    yield Row(f"{wanted.name}: prefill", measured=engine["prefill"] * 1e3, unit="ms", detail=detail)
