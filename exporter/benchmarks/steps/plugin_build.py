"""Compiles the kernels and the plugins for this GPU, with the headers of the TensorRT that will load them."""

from __future__ import annotations

from collections.abc import Iterator

from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import Setting
from seqexport.plugins import library


def run(setting: Setting) -> Iterator[Row]:
    options = ["--cuda-arch", setting.gpu.capability, *setting.plugin_flags]
    setting.tensorrt("exporter.cli", "plugins", "build", *options, log="plugins-build")
    for built in library.built().values():
        yield Row(built.name, passed=built.fault is None, detail={**built.built_for, "fault": built.fault or ""})
