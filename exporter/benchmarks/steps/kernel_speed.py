"""The kernels beside mamba_ssm, causal-conv1d, cuDNN, flash attention and a device copy, in one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from seqexport.exporter.benchmarks.peers import try_to_build
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import Setting, StepFailed
from seqexport.plugins import library


def run(setting: Setting) -> Iterator[Row]:
    yield from try_to_build(setting)
    output = setting.work / "kernels.json"
    output.unlink(missing_ok=True)
    options = ["--library", library.require("kernels").path, "--json", output]
    try:
        setting.torch("runtimes.benchmarks.kernels", *options, log="kernel-speed", with_peers=True)
    except StepFailed:
        if not output.exists():
            raise
    yield from rows(json.loads(output.read_text()))


def rows(found: dict[str, Any]) -> Iterator[Row]:
    """What was timed, and what failed."""
    for rate, unit in (("copy_bytes_per_s", "TB/s"), ("matrix_flop_per_s", "TFLOP/s")):
        yield Row(rate.partition("_")[0], measured=found[rate] / 1e12, unit=unit, detail={"torch": found["torch"]})
    for row in found["rows"]:
        name = f"{row['op']} {row['shape']}"
        if row["target"] is None or row["measure"] == "us":
            yield Row(
                name, measured=row["ours_us"], unit="us", target=row["target"], at_most=row["at_most"], detail=row
            )
        else:
            yield Row(f"{name}: {row['measure']}", measured=row["measured"], target=row["target"], detail=row)
    for failure in found["failures"]:
        yield Row(f"{failure['op']} {failure['shape']}", passed=False, detail=failure)
