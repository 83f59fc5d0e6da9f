"""Engines of the bundles: built, built again from the timing cache, verified, and read along for thousands of steps.

Several at a time (--jobs) take turns on the GPU, so build times count only against each other.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from seqexport.exporter.benchmarks.bundles import SHIPPED, Wanted, ensure_bundle, for_engines
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import SOURCE, LeftOut, Setting, StepFailed

SECOND_BUILD_FASTER = 3.0
OUT_OF_BOUNDS = 1


def run(setting: Setting) -> Iterator[Row]:
    every = for_engines(setting)
    if not every:
        raise LeftOut("none of --models is built for accuracy")
    setting.require_tensorrt()
    for wanted in every:
        ensure_bundle(setting, wanted)
    with ThreadPoolExecutor(setting.jobs) as pool:
        for rows in pool.map(lambda wanted: _engine(setting, wanted), every):
            yield from rows


def _engine(setting: Setting, wanted: Wanted) -> list[Row]:
    """A row for each thing tried; what fails does not keep the rest from being tried."""
    cache = setting.work / f"{wanted.name}.timing"
    cache.unlink(missing_ok=True)
    shutil.rmtree(wanted.folder(setting) / "engines", ignore_errors=True)
    try:
        first = build(setting, wanted, ["--timingCacheFile", cache])
    except StepFailed as failure:
        return [Row(f"{wanted.name}: build", passed=False, detail={"error": str(failure)})]
    how = {"seconds": round(first, 1), "jobs": setting.jobs, "flags": setting.build_flags}
    rows = [Row(f"{wanted.name}: build", passed=True, detail=how)]
    checks: list[tuple[str, Callable[..., Row]]] = [("verify", verify), ("long run", _long_run), ("bench", _bench)]
    if wanted.random and wanted.dtype == "fp16":
        again = functools.partial(_build_again, first=first, cache=cache)
        checks.append(("second build with a timing cache", again))
    for name, check in checks:
        try:
            rows.append(check(setting, wanted, f"{wanted.name}: {name}"))
        except StepFailed as failure:
            rows.append(Row(f"{wanted.name}: {name}", passed=False, detail={"error": str(failure)}))
    return rows


def build(setting: Setting, wanted: Wanted, options: Sequence[object], suffix: str = "") -> float:
    """Build the engine, in the place of one that is there; gives the seconds that it took."""
    start = perf_counter()
    command = ["build", wanted.folder(setting), *setting.build_flags, *options]
    setting.tensorrt("exporter.cli", *command, log=f"build-{wanted.name}{suffix}")
    return perf_counter() - start


def _build_again(setting: Setting, wanted: Wanted, name: str, *, first: float, cache: Path) -> Row:
    """The whole command again, with the timing cache that the first left."""
    second = build(setting, wanted, ["--timingCacheFile", cache], "-second")
    detail = {"first_seconds": round(first, 2), "second_seconds": round(second, 2), "jobs": setting.jobs}
    return Row(name, measured=first / second, unit="x faster", target=SECOND_BUILD_FASTER, detail=detail)


def verify(setting: Setting, wanted: Wanted, name: str) -> Row:
    """Whether the engine gives what the bundle has recorded of the original."""
    command = ["verify", wanted.folder(setting), "--backend", "trt", "--json"]
    output = setting.tensorrt("exporter.cli", *command, log=f"verify-{wanted.name}", allowed=(0, OUT_OF_BOUNDS))
    checks = json.loads(output)
    return Row(name, passed=all(check["passed"] for check in checks), detail=summary(checks))


def summary(checks: list[dict[str, Any]]) -> dict[str, Any]:
    """How many held, and the one that came nearest to what is allowed; all of those that did not hold."""
    worst = max(checks, key=lambda check: _share(check))
    failed = [check for check in checks if not check["passed"]]
    return {"checks": len(checks), "share_of_allowed": _share(worst), "worst": worst, "failed": failed}


def _share(check: dict[str, Any]) -> float:
    error = check["error"]
    return float("inf") if error is None else float(error) / float(check["allowed"])


def _answers_file(setting: Setting, wanted: Wanted) -> Path:
    return setting.work / "answers" / f"{wanted.name}.safetensors"


def ensure_answers(setting: Setting, wanted: Wanted) -> Path:
    """What PyTorch in this interpreter answers in a long run, asked if it was not."""
    file = _answers_file(setting, wanted)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        source = ["--source", SOURCE / "exporter" / "presets" / wanted.model] if wanted.model in SHIPPED else []
        command = ["answer", wanted.folder(setting), file, *source]
        setting.torch("runtimes.benchmarks.long_run", *command, log=f"answers-{wanted.name}")
    return file


def _long_run(setting: Setting, wanted: Wanted, name: str) -> Row:
    command = ["replay", wanted.folder(setting), ensure_answers(setting, wanted)]
    output = setting.tensorrt("runtimes.benchmarks.long_run", *command, log=f"replay-{wanted.name}")
    found = json.loads(output)
    checks = found["checks"]
    detail = {"steps": found["steps"], "runner": found["runner"], **summary(checks)}
    return Row(name, passed=all(check["passed"] for check in checks), detail=detail)


def _bench(setting: Setting, wanted: Wanted, name: str) -> Row:
    file = setting.work / f"bench-{wanted.name}.json"
    command = ["bench", wanted.folder(setting), "--backend", "trt", "-o", file]
    setting.tensorrt("exporter.cli", *command, log=f"bench-{wanted.name}")
    return Row(name, passed=True, detail={"points": json.loads(file.read_text())["points"]})
