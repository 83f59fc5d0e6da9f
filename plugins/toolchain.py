"""What this machine has to compile the plugin libraries with, and which GPU and runtimes to compile them for."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

MINIMUM_CMAKE = Version("3.18")
LIBRARY_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/tensorrt/lib",
)


@dataclass(frozen=True)
class Tool:
    """A program; ``path`` is None where it is missing or too old, and ``advice`` then says what to install."""

    name: str
    path: Path | None
    version: str
    advice: str

    @property
    def found(self) -> str:
        return f"{self.version}, {self.path}" if self.path else self.version or "not found"


@dataclass(frozen=True)
class Toolchain:
    cmake: Tool
    make: Tool
    cxx: Tool
    nvcc: Tool

    @property
    def all(self) -> tuple[Tool, ...]:
        return self.cmake, self.make, self.cxx, self.nvcc

    @property
    def generator(self) -> str:
        return "Ninja" if self.make.name == "ninja" else "Unix Makefiles"


def find_toolchain() -> Toolchain:
    """The compilers and build tools of this machine, by PATH, this Python's environment and the usual places."""
    return Toolchain(_cmake(), _make(), _cxx(), find_nvcc())


def _cmake() -> Tool:
    tool = _tool("cmake", "pip install cmake", [_program("cmake")], r"version (\d[\d.]*\d)")
    if tool.path and Version(tool.version) < MINIMUM_CMAKE:
        return Tool("cmake", None, f"{tool.version}, {tool.path} is older than {MINIMUM_CMAKE}", tool.advice)
    return tool


def _make() -> Tool:
    ninja = _tool("ninja", "pip install ninja", [_program("ninja"), _program("ninja-build")], r"([\d.]+)")
    return ninja if ninja.path else _tool("make", "pip install ninja", [_program("make")], r"Make ([\d.]+)")


def _cxx() -> Tool:
    named = os.environ.get("CXX")
    candidates = [_program(named)] if named else [_program(name) for name in ("c++", "g++", "clang++")]
    return _tool("C++ compiler", "apt install g++", candidates, r"(\d+\.[\d.]+)")


def find_nvcc() -> Tool:
    """The CUDA compiler: ``$CUDACXX``, PATH, ``$CUDA_HOME``, ``$CUDA_PATH``, ``/usr/local/cuda``."""
    named = os.environ.get("CUDACXX")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [shutil.which("nvcc", path=f"{home}/bin") for home in homes if home]
    candidates = [shutil.which(named)] if named else [_program("nvcc"), *places]
    return _tool("nvcc", "the CUDA Toolkit: https://developer.nvidia.com/cuda-downloads", candidates, r", V([\d.]+)")


def nvcc_architectures(nvcc: Path) -> list[str]:
    """The architectures that a CUDA compiler can compile for, such as ``90``, in order; empty if it does not say."""
    known = re.findall(r"^compute_(\w+)$", _output(nvcc, "--list-gpu-arch"), re.MULTILINE)
    return sorted(known, key=lambda name: (len(name), name))


def gpu_architectures() -> list[str]:
    """The compute capabilities of this machine's GPUs as architectures, such as ``87``; empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    found = set()
    for device in range(count.value):
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        found.add((major.value, minor.value))
    return [f"{a}{b}" for a, b in sorted(found)]


def tensorrt_version() -> str:
    """The version of the installed TensorRT: Python's, else the system's ``libnvinfer``; empty if there is none."""
    if installed := _package_version("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        return installed
    folders = [*filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")), *LIBRARY_FOLDERS]
    names = (file.name for folder in folders for file in sorted(Path(folder).glob("libnvinfer.so.*.*.*")))
    return next((name.removeprefix("libnvinfer.so.") for name in names), "")


def onnxruntime_version() -> str:
    """The version of the installed ONNX Runtime; empty if there is none."""
    return _package_version("onnxruntime", "onnxruntime-gpu")


def _package_version(*packages: str) -> str:
    for package in packages:
        try:
            return ".".join(map(str, Version(version(package)).release[:3]))
        except PackageNotFoundError:
            continue
    return ""


def _program(name: str) -> str | None:
    """On PATH, or beside this Python, whose environment may not be on PATH."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def _tool(name: str, advice: str, candidates: Iterable[str | None], pattern: str) -> Tool:
    for candidate in filter(None, candidates):
        if match := re.search(pattern, _output(Path(candidate), "--version")):
            return Tool(name, Path(candidate), match[1], advice)
    return Tool(name, None, "", advice)


def _output(program: Path, argument: str) -> str:
    command = [str(program), argument]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
