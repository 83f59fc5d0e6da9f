"""The kernels beside mamba_ssm, causal-conv1d, cuDNN, flash attention and a device copy, in one run."""

from __future__ import annotations

import json
from collections.abc import Iterator

from seqexport.exporter.benchmarks.peers import build_peers
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import LeftOut, Setting
from seqexport.plugins import library


def run(setting: Setting) -> Iterator[Row]:
    try:
        build_peers(setting)
    except LeftOut as reason:
        yield Row("mamba_ssm and causal-conv1d", detail={"left out": str(reason)})
    output = setting.work / "kernels.json"
    options = ["--library", library.require("kernels").path, "--json", output]
    setting.torch("runtimes.benchmarks.kernels", *options, log="kernel-speed", with_peers=True)
    found = json.loads(output.read_text())
    for rate, unit in (("copy_bytes_per_s", "TB/s"), ("matrix_flop_per_s", "TFLOP/s")):
        yield Row(rate.partition("_")[0], measured=found[rate] / 1e12, unit=unit)
    for row in found["rows"]:
        name = f"{row['op']} {row['shape']}"
        if row["target"] is None:
            yield Row(name, measured=row["ours_us"], unit="us", detail=row)
        else:
            yield Row(f"{name}: {row['measure']}", measured=row["measured"], target=row["target"], detail=row)
