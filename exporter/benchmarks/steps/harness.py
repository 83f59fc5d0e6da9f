"""The plugins' interfaces, called by a host program as TensorRT 8, 10 and 11 would: no TensorRT is needed.

For each version whose headers are in the user's cache, the plugin library and the program are compiled and run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import SOURCE, LeftOut, Setting, StepFailed
from seqexport.plugins import folders
from seqexport.plugins.library import FILES
from seqexport.plugins.toolchain import find_toolchain

SOURCES = SOURCE / "tests" / "tensorrt"
FOUND = 1
NOT_LAUNCHED = "launches left out"


def run(setting: Setting) -> Iterator[Row]:
    nvcc = find_toolchain().nvcc.path
    if nvcc is None:
        raise LeftOut("no nvcc")
    if not (SOURCES / "harness.cpp").exists():
        raise LeftOut(f"no {SOURCES / 'harness.cpp'}: it is in the source checkout, not in the wheel")
    headers = cached_headers()
    if not headers:
        raise LeftOut(f"no headers of TensorRT in {cache()}")
    for version, include in headers.items():
        try:
            yield _run(setting, nvcc, version, include)
        except StepFailed as failure:
            yield Row(f"TensorRT {version}", passed=False, detail={"error": str(failure)})


def cache() -> Path:
    """Where CMake keeps downloaded headers."""
    return folders.cache() / "seqexport" / "headers"


def cached_headers() -> dict[str, Path]:
    """Include folders by TensorRT's version, ascending."""
    found = {}
    for folder in cache().glob("tensorrt-*/include"):
        numbers = tuple(int(n) for n in re.findall(r"\d+", folder.parent.name))
        if numbers:
            found[numbers] = folder
    return {".".join(map(str, numbers)): found[numbers] for numbers in sorted(found)}


def _run(setting: Setting, nvcc: Path, version: str, include: Path) -> Row:
    folder = setting.work / "harness" / version
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--cuda-arch", setting.gpu.capability, "--tensorrt-include", include, "--output", folder]
    setting.torch("exporter.cli", "plugins", "build", *options, log=f"harness-{version}-plugins")
    program = folder / "harness"
    sources = sorted(SOURCES.glob("*.cpp"))
    includes = ["-I", include, "-I", SOURCE / "plugins" / "kernels"]
    command = [nvcc, "-std=c++17", "-O2", "-Xlinker=--export-dynamic", *includes, *sources, "-o", program, "-ldl"]
    setting.run(command, log=f"harness-{version}-compile")
    return row(
        version, setting.run([program, folder / FILES["tensorrt"]], log=f"harness-{version}", allowed=(0, FOUND))
    )


def row(version: str, output: str) -> Row:
    """What the program says: a line for each check; it must have launched the kernels too."""
    lines = output.splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", NOT_LAUNCHED))]
    held = sum(line.startswith("ok") for line in lines)
    return Row(f"TensorRT {version}", passed=bool(held) and not failed, detail={"held": held, "failed": failed})
