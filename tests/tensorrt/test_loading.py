"""The plugin library in a program that loads it before TensorRT, as Polygraphy does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from ctypes.util import find_library
from pathlib import Path

import pytest

from seqexport.plugins import library
from tests.conftest import leave_out
from tests.tensorrt.compiler import compile_cleanly

TENSORRT = """
static int asked = 0;
extern "C" {
int getInferLibVersion() { return %s; }
void* getPluginRegistry() { ++asked; return nullptr; }
int times_asked() { return asked; }
}
"""
"""What the library looks for; without a registry, of which it only asks."""

LOAD = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])
print(ctypes.CDLL(sys.argv[2]).times_asked())
"""


@pytest.fixture
def version(native_library: Callable[[str], Path]) -> str:
    """Of the TensorRT that the library was built for."""
    return library.built(native_library("tensorrt").parent)["tensorrt"].built_for["tensorrt"]


def make_tensorrt(folder: Path, version: str) -> str:
    major, minor, patch = (int(number) for number in version.split("."))
    number = 10000 * major + 100 * minor + patch if major >= 10 else 1000 * major + 100 * minor + patch
    (folder / "tensorrt.cpp").write_text(TENSORRT % number)
    name = f"libnvinfer.so.{major}"
    compile_cleanly(version, "-shared", "-Xcompiler", "-fPIC", "-o", folder / name, folder / "tensorrt.cpp")
    return name


def load(plugins: Path, name: str, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(path)}
    command = [sys.executable, "-c", LOAD, plugins, name]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_it_loads_tensorrt_from_the_library_path(
    native_library: Callable[[str], Path], version: str, tmp_path: Path
) -> None:
    done = load(native_library("tensorrt"), make_tensorrt(tmp_path, version), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 0


def test_it_says_so_where_there_is_none(native_library: Callable[[str], Path], version: str, tmp_path: Path) -> None:
    if find_library("nvinfer"):
        leave_out("a test of the plugins without TensorRT left out: the system has one on its library path")
    major = version.partition(".")[0]
    done = load(native_library("tensorrt"), f"libnvinfer.so.{major}", tmp_path)
    first = done.stderr.splitlines()[0]
    assert first == f"seqexport: no TensorRT {major} is loaded or on the library path, and these plugins need it"
