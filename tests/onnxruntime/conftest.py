"""The compiled library, on the CPU and, where there is one, on a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort
import pytest

from seqexport.plugins import library as built_libraries
from seqexport.plugins import toolchain
from seqexport.runtimes.ort.cuda import preload
from tests.conftest import leave_out
from tests.onnxruntime.library_ops import PROVIDERS, LibraryOps


@pytest.fixture(scope="session")
def library(native_library: Callable[[str], Path]) -> Path:
    return native_library("onnxruntime")


@pytest.fixture(params=list(PROVIDERS))
def device(request: pytest.FixtureRequest, library: Path) -> str:
    """``cpu`` or ``cuda``, whose libraries are then loaded."""
    name: str = request.param
    if name == "cuda":
        if missing := missing_for_cuda(library):
            leave_out(f"tests of {library.name} on CUDA left out: {missing}")
        preload()
    return name


@pytest.fixture
def ops(library: Path, device: str) -> LibraryOps:
    return LibraryOps(library, device)


@functools.cache
def missing_for_cuda(library: Path) -> str:
    """Why the library cannot run on a GPU here; empty if it can."""
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return f"onnxruntime {ort.__version__} has no {PROVIDERS['cuda']}; onnxruntime-gpu has"
    if not toolchain.gpu_architectures():
        return "no NVIDIA GPU, or no driver"
    if not built_libraries.built(library.parent)["onnxruntime"].built_for.get("cuda"):
        return "it was built without CUDA"
    return ""
