"""The plugin libraries as ``seqexport plugins build`` makes them, for the tests that need compiled code."""

from __future__ import annotations

import os
from pathlib import Path

from seqexport.plugins import toolchain
from seqexport.plugins.build import Build, Options

FOLDER = Path(__file__).parent.parent / "build" / "native"
BUILT = os.environ.get("SEQEXPORT_TEST_PLUGINS")
"""A folder of libraries that were already built from this very checkout: they are tested, and nothing is compiled."""

ARCHITECTURE = "90"
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
    architectures = tuple(toolchain.gpu_architectures()) or (ARCHITECTURE,)
    work = Build(Options(architectures, output=FOLDER), toolchain.find_toolchain())
    with work.locked():
        found = work.configure()
        work.compile(lambda share, what: None)
        work.install(found)
    return FOLDER
