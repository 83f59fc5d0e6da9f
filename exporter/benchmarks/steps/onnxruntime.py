"""The op library in ONNX Runtime's CUDA provider: its tests, its ops beside the bare kernels, and whole models.

ONNX Runtime is this interpreter's; where onnxruntime-gpu lies elsewhere, its folder comes first on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from seqexport.exporter.benchmarks.bundles import RANDOM, Wanted, ensure_bundle
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps.kernel_tests import run_tests
from seqexport.plugins import library

PROVIDER = "CUDAExecutionProvider"
BARE_SHARE = 1 / 1.1
"""The bare kernel's time, of the op's: the op is within 10% of it."""

PREFILL_FASTER = 50.0
LAYER_OVERHEAD = 10e-6
"""Seconds beyond its kernels that a layer may take in a decode step that is not a CUDA graph."""

BODY_REPEATS = 1
"""Of a prompt through the function bodies, which takes seconds."""

ROUNDS = 3
"""Of a chain of function bodies, for the same reason."""

TESTS, SELECTED = ("tests/onnxruntime", "tests/runtimes/test_ort_cuda.py"), "cuda or cpu_kernels"
PROCESSES = 12


def run(setting: Setting) -> Iterator[Row]:
    require_provider()
    built = library.require("onnxruntime")
    if not built.built_for.get("cuda"):
        raise StepFailed(f"{built.path} was built without CUDA; build it where nvcc is: {library.BUILD}")
    every = [Wanted(model, "fp16", target="portable") for model in RANDOM if setting.wants(model)]
    lock = setting.work / "gpu.lock"
    with ThreadPoolExecutor(1 + 2 * len(every)) as pool:
        bundles = [pool.submit(ensure_bundle, setting, wanted) for wanted in every]  # takes no GPU
        yield from _tests(setting)
        ops = pool.submit(lambda: list(_ops(setting, lock)))
        models = [pool.submit(_model, pool, setting, *made, lock) for made in zip(every, bundles, strict=True)]
        for rows in (ops, *models):
            yield from rows.result()


def require_provider() -> None:
    """Raises LeftOut: this interpreter has no ONNX Runtime with CUDA."""
    try:
        ort = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise LeftOut("no onnxruntime; onnxruntime-gpu is wanted, if need be by PYTHONPATH") from error
    if PROVIDER not in ort.get_available_providers():
        raise LeftOut(f"onnxruntime {ort.__version__} has no {PROVIDER}; put onnxruntime-gpu first on PYTHONPATH")


def _tests(setting: Setting) -> Iterator[Row]:
    env = {"SEQEXPORT_TEST_PLUGINS": str(library.folder())}
    try:
        yield from run_tests(setting, TESTS, log="onnxruntime-tests", env=env, select=SELECTED, processes=PROCESSES)
    except StepFailed as failure:
        yield Row("tests", passed=False, detail={"error": str(failure)})


def _ops(setting: Setting, lock: Path) -> Iterator[Row]:
    """What was timed, however far it came."""
    output = setting.work / "op_libraries.json"
    output.unlink(missing_ok=True)
    options = ["--device", "cuda", "--rounds", ROUNDS, "--lock", lock, "-o", output]
    failed: list[Row] = []
    try:
        setting.torch("exporter.benchmarks.op_libraries", *options, log="op-libraries")
    except StepFailed as failure:
        failed.append(Row("op libraries", passed=False, detail={"error": str(failure)}))
    for result in json.loads(output.read_text())["results"] if output.exists() else []:
        yield from op_rows(result)
    yield from failed


def op_rows(result: dict[str, Any]) -> Iterator[Row]:
    """The op beside the bare kernel, in an ordinary run and in a captured one, and beside its function body.

    At one token the host's part of a node is longer than its kernel, so that only the captured run has a target.
    """
    name = f"{result['op']}, {result['tokens']} tokens, {result['dtype']}"
    us = {form: round(ms * 1e3, 2) for form, ms in result["ms"].items()}
    failed = result["failed"]
    for form, target in (("library", BARE_SHARE if result["tokens"] > 1 else None), ("library, captured", BARE_SHARE)):
        if reasons := [f"{each}: {failed[each]}" for each in (form, "bare kernel") if each in failed]:
            yield Row(f"{name}, {form}", passed=False, detail={"failed": reasons})
        else:
            measured = us["bare kernel"] / us[form]
            yield Row(f"{name}, {form}: bare kernel's share", measured=measured, target=target, detail={"us": us})
    if "library" in us and "function body" in us:
        measured = us["function body"] / us["library"]
        yield Row(f"{name}: times the function body", measured=measured, unit="x", detail={"us": us, "failed": failed})


def _model(pool: Executor, setting: Setting, wanted: Wanted, bundle: Future[Path], lock: Path) -> list[Row]:
    try:
        folder = bundle.result()
        ours = pool.submit(_speed, setting, wanted, folder, lock)
        bodies = _speed(setting, wanted, folder, lock, "--no-plugins", "--repeats", BODY_REPEATS)
        return list(model_rows(wanted, ours.result(), bodies))
    except StepFailed as failure:
        return [Row(wanted.name, passed=False, detail={"error": str(failure)})]


def _speed(setting: Setting, wanted: Wanted, folder: Path, lock: Path, *options: object) -> dict[str, Any]:
    log = f"ort-speed-{wanted.name}{'-bodies' if options else ''}"
    output = setting.torch("runtimes.benchmarks.ort_speed", folder, "--lock", lock, *options, log=log)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def model_rows(wanted: Wanted, ours: dict[str, Any], bodies: dict[str, Any]) -> Iterator[Row]:
    """A whole model with the library beside its function bodies, and what a step takes beyond its kernels."""
    detail = {"library": ours, "function bodies": bodies}
    name, prefill = wanted.name, f"prefill of {ours['prompt']} tokens"
    decode = f"decode after {ours['context']} tokens"
    target = PREFILL_FASTER if wanted.model.startswith("mamba") else None
    faster = {what: bodies[what] / ours[what] for what in ("prefill", "step")}
    yield Row(f"{name}: {prefill}, times function bodies", measured=faster["prefill"], unit="x", target=target,
              detail=detail)  # fmt: skip
    yield Row(f"{name}: {decode}, times function bodies", measured=faster["step"], unit="x", detail=detail)
    yield Row(f"{name}: {prefill}", measured=ours["prefill"] * 1e3, unit="ms")
    yield Row(f"{name}: {decode}", measured=ours["step"] * 1e3, unit="ms")
    yield _overhead(name, ours)


def _overhead(name: str, ours: dict[str, Any]) -> Row:
    """1 or more: what a layer takes in a step beyond its kernels is allowed, or the step is a CUDA graph."""
    title = f"{name}: a step as a CUDA graph, or at most {LAYER_OVERHEAD * 1e6:.0f} us a layer beyond its kernels"
    if ours["kernels"] is None:
        measured = 1.0 if ours["captured"] else None
        return Row(title, measured=measured, target=1.0, detail={**ours, "left out": "CUPTI told of no kernels"})
    beyond = (ours["step"] - ours["kernels"]) / ours["layers"]
    detail = {"us a layer beyond kernels": round(beyond * 1e6, 2), "us of kernels": round(ours["kernels"] * 1e6, 1),
              "captured": ours["captured"]}  # fmt: skip
    return Row(title, measured=1.0 if ours["captured"] else LAYER_OVERHEAD / beyond, target=1.0, detail=detail)
