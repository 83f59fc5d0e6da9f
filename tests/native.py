"""The plugin libraries as ``seqexport plugins build`` makes them, for the tests that need compiled code."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

from seqexport.plugins import toolchain
from seqexport.plugins.build import Build, Options

FOLDER = Path(__file__).parent.parent / "build" / "native"
BUILT = os.environ.get("SEQEXPORT_TEST_PLUGINS")
"""A folder of libraries that were already built from this very checkout: they are tested, and nothing is compiled."""

ARCHITECTURE = "90-real"
"""Without PTX for later ones, which would double what is compiled."""
NEEDS = {
    "kernels": "no nvcc",
    "tensorrt": "no nvcc, or no headers of TensorRT",
    "onnxruntime": "no headers of ONNX Runtime",
}
"""Why a library may be missing."""


def missing_tools() -> str:
    """What keeps this machine from compiling anything; empty if nothing does, or nothing need be compiled."""
    if BUILT:
        return ""
    tools = toolchain.find_toolchain()
    return ", ".join(f"no {tool.name}" for tool in (tools.cmake, tools.make, tools.cxx) if tool.path is None)


def build_plugins() -> Path:
    """Brings ``build/native`` up to date with the sources, for the GPU in the machine or one architecture.

    Where the sources are as they were, this takes a second. ``BUILT`` is taken as it is.
    """
    if BUILT:
        return Path(BUILT).absolute()
    architectures = () if toolchain.gpu_architectures() else (ARCHITECTURE,)
    work = Build(Options(architectures, output=FOLDER), toolchain.find_toolchain())
    with work.locked():
        found = work.configure()
        work.compile(lambda share, what: None)
        work.install(found)
    return FOLDER


KERNELS = Path(__file__).parent.parent / "plugins" / "kernels"
DESCRIPTIONS = [KERNELS / "node.cpp", KERNELS / "ops.cpp", *sorted(KERNELS.glob("*_op.cpp"))]
"""The sources that describe the ops; they need no CUDA."""


def compile_descriptions(file: Path) -> ctypes.CDLL | None:
    """The ops' descriptions as a library of their own; None where there is no C++ compiler."""
    if (compiler := toolchain.find_toolchain().cxx.path) is None:
        return None
    sources = [*DESCRIPTIONS, *(KERNELS / f"{name}.cpp" for name in ("c_api", "describe", "params_checks"))]
    flags = ["-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-DSEQEXPORT_CPU_ONLY", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, *sources, "-o", file], check=True)
    return ctypes.CDLL(str(file))
