"""Whole models with random weights, fp16, batch 1: TensorRT engines beside transformers, eager and compiled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from seqexport.exporter.benchmarks.bundles import HUGE, HYBRID, ITS_SIZE, Wanted, ensure_bundle, for_speed
from seqexport.exporter.benchmarks.peers import try_to_build
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps.engines import build
from seqexport.runtimes.benchmarks.lock import alone, together
from seqexport.runtimes.benchmarks.sizes import CONTEXT, PROMPT

TARGETS = {"eager": 3.0, "compiled": 1.5, "prefill": 1.5}
WHERE_COMPILE_FAILS = 5.0
"""Times eager, in the place of both."""

PEERS_PREFILL = 2.0
"""Of the huge models that mamba_ssm has kernels for."""

HYBRID_PREFILL = 1.3
"""At most, times a Transformer of its size in the same engine."""

ERROR_ALLOWED = 2.0
"""Of the logits from those of the same weights in float32, times the original's own in the engine's dtype."""


def run(setting: Setting) -> Iterator[Row]:
    every: list[Wanted] = []
    if not for_speed(setting):
        raise LeftOut("none of --models is timed whole")
    setting.require_tensorrt()
    for wanted in for_speed(setting):
        try:
            ensure_bundle(setting, wanted)
            every.append(wanted)
        except StepFailed as failure:
            yield _failed(f"{wanted.name}: export", failure)
    peers = yield from try_to_build(setting)
    yield from _timed(setting, every, peers)


def _timed(setting: Setting, every: list[Wanted], peers: bool) -> Iterator[Row]:
    """What fails of a model does not keep the rest from being timed."""
    lock = setting.work / "gpu.lock"
    prefills: dict[str, float] = {}
    with ThreadPoolExecutor(setting.jobs) as builders, ThreadPoolExecutor(3 * len(every) + 1) as pool:
        plans = {wanted: builders.submit(ensure_engine, setting, wanted, lock) for wanted in every}
        original = {w: [pool.submit(_torch, setting, w, p, lock) for p in _ways(w, peers)] for w in every}
        engines = {wanted: pool.submit(_engine, setting, wanted, plans[wanted], lock) for wanted in every}
        for wanted in every:
            runs: list[dict[str, Any]] = []
            for run in original[wanted]:
                try:
                    runs.append(run.result())
                except StepFailed as failure:
                    yield _failed(f"{wanted.name}: transformers", failure)
            try:
                engine = engines[wanted].result()
            except StepFailed as failure:
                yield _failed(f"{wanted.name}: engine", failure)
                continue
            prefills[wanted.model] = engine["prefill"]
            yield from rows(wanted, runs, engine)
    yield from hybrid_row(prefills)


def _failed(name: str, failure: StepFailed) -> Row:
    return Row(name, passed=False, detail={"error": str(failure)})


def _ways(wanted: Wanted, peers: bool) -> tuple[bool, ...]:
    """Without the peers' kernels, and where they have any for this model, with them; of a huge model only with them."""
    if not peers or not wanted.has_peers:
        return (False,)
    return (True,) if wanted.model in HUGE else (False, True)


def _torch(setting: Setting, wanted: Wanted, peers: bool, lock: Path) -> dict[str, Any]:
    options = ["--lock", lock, *(["--expect-peers"] if peers else [])]
    log = f"torch-speed-{wanted.name}{'-peers' if peers else ''}"
    command = ["runtimes.benchmarks.torch_speed", wanted.model, *options]
    output = setting.torch(*map(str, command), log=log, with_peers=peers)
    return {"peers": peers, **json.loads(output.splitlines()[-1])}


def ensure_engine(setting: Setting, wanted: Wanted, lock: Path) -> None:
    """Built alone on the GPU, since TensorRT chooses by timing, unless --jobs lets several be built at a time."""
    with alone(lock) if setting.jobs == 1 else together(lock):
        if not list((wanted.folder(setting) / "engines").glob("*.plan")):
            build(setting, wanted, ["--timingCacheFile", setting.work / f"{wanted.name}.timing"])


def _engine(setting: Setting, wanted: Wanted, plan: Future[None], lock: Path) -> dict[str, Any]:
    plan.result()
    options = [wanted.folder(setting), "--lock", lock]
    output = setting.tensorrt("runtimes.benchmarks.engine_speed", *options, log=f"engine-speed-{wanted.name}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return {**found, "build_flags": setting.build_flags}


def rows(wanted: Wanted, original: list[dict[str, Any]], engine: dict[str, Any]) -> Iterator[Row]:
    """Whether the engine says what the original says, and how many times faster it is than the fastest of its runs."""
    said, theirs = engine.pop("answers"), [(run.pop("answers"), run.pop("exact")) for run in original]
    if theirs:
        yield agreement(wanted, *theirs[0], said)
        yield from _faster(wanted, original, engine)
    detail = {"torch": original, "engine": engine}
    yield Row(f"{wanted.name}: decode", measured=engine["step"] * 1e3, unit="ms", detail=detail)
    yield Row(f"{wanted.name}: prefill", measured=engine["prefill"] * 1e3, unit="ms", detail=detail)


def _faster(wanted: Wanted, original: list[dict[str, Any]], engine: dict[str, Any]) -> Iterator[Row]:
    asked = {"eager": ("eager_step", "step"), "compiled": ("compiled_step", "step"), "prefill": ("prefill", "prefill")}
    titles = {
        "eager": f"decode after {CONTEXT} tokens, times transformers eager",
        "compiled": f"decode after {CONTEXT} tokens, times torch.compile",
        "prefill": f"prefill of {PROMPT} tokens, times transformers",
    }
    targets = _targets(wanted, compiles=any("compiled_step" in run for run in original))
    for what, (theirs, ours) in asked.items():
        times = [run[theirs] for run in original if theirs in run]
        reason = {} if times else {"left out": "; ".join(run.get("compiled_error", "") for run in original)}
        yield Row(
            f"{wanted.name}: {titles[what]}",
            measured=min(times) / engine[ours] if times else None,
            unit="x",
            target=targets[what],
            detail={"original_seconds": times, "engine_seconds": engine[ours], **reason},
        )


def _targets(wanted: Wanted, *, compiles: bool) -> dict[str, float]:
    targets = dict(TARGETS)
    if not compiles:
        targets["eager"] = WHERE_COMPILE_FAILS
    if wanted.model in HUGE and wanted.has_peers:
        targets["prefill"] = PEERS_PREFILL
    return targets


def agreement(wanted: Wanted, original: dict[str, Any], exact: dict[str, Any], engine: dict[str, Any]) -> Row:
    """Whether the engine says what the original says, token by token, as far as their dtype can tell."""
    ours, theirs = (_error(found, exact) for found in (engine, original))
    same = float(np.mean(np.array(original["likeliest"]) == engine["likeliest"]))
    detail = {"error": ours, "allowed": ERROR_ALLOWED * theirs, "same_likeliest": same}
    return Row(f"{wanted.name}: logits as transformers'", passed=ours <= detail["allowed"], detail=detail)


def _error(found: dict[str, Any], exact: dict[str, Any]) -> float:
    true = np.array(exact["logits"])
    return float(np.linalg.norm(np.array(found["logits"]) - true) / np.linalg.norm(true))


def hybrid_row(prefills: dict[str, float]) -> Iterator[Row]:
    """The prompt of a hybrid beside a Transformer's of its size, where both were timed."""
    if HYBRID in prefills and ITS_SIZE in prefills:
        yield Row(
            f"{HYBRID}-fp16: prefill of {PROMPT} tokens, times {ITS_SIZE}'s",
            measured=prefills[HYBRID] / prefills[ITS_SIZE],
            unit="x",
            target=HYBRID_PREFILL,
            at_most=True,
            detail={"seconds": {name: prefills[name] for name in (HYBRID, ITS_SIZE)}},
        )
