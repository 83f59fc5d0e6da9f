"""seqexport-build, linked with TensorRT-RTX of PyPI, which builds without a GPU; and libseqexport on ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from seqexport.plugins import folders, library, toolchain
from seqexport.runtimes.bundle import Bundle
from tests.cli.conftest import Result
from tests.conftest import Exported, leave_out, leave_out_of_short_runs
from tests.cpp import gpu
from tests.cpp.embedded import AARCH64, ADDRESS, SHIPPED, SOURCES, THREAD, WORK, Installed, Kind, installed, run

RTX_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
RTX_HEADERS = "11.1.0"
"""The headers that TensorRT-RTX 1.7 agrees with where the builder touches them."""

Build = Callable[..., Result]


def headers(version: str) -> Path | None:
    """The cached headers of a TensorRT, if they hold the parser's too."""
    folder = folders.cache() / "seqexport" / "headers" / f"tensorrt-{version}" / "include"
    return folder if (folder / "NvOnnxParser.h").is_file() else None


def _rtx_package() -> Path | None:
    spec = importlib.util.find_spec(RTX_PACKAGE.removesuffix("-cu13").replace("-", "_"))
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def missing() -> str:
    """What keeps seqexport-build from being compiled and run here; empty if nothing does."""
    tools = toolchain.find_toolchain()
    lacking = [f"no {tool.name}" for tool in (tools.cmake, tools.make, tools.cxx, tools.nvcc) if tool.path is None]
    if headers(RTX_HEADERS) is None:
        lacking.append(f"no cached headers of TensorRT {RTX_HEADERS} with NvOnnxParser.h")
    if _rtx_package() is None:
        lacking.append(f"no {RTX_PACKAGE}")
    return ", ".join(lacking)


@pytest.fixture(scope="session")
def executable() -> Path:
    if reason := missing():
        leave_out(f"tests/cpp left out: {reason}")
    WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / "lock"):
        return _compiled()


def _compiled() -> Path:
    tools = toolchain.find_toolchain()
    cmake, folder = str(tools.cmake.path), WORK / "rtx"
    definitions = {
        "CMAKE_MAKE_PROGRAM": tools.make.path,
        "CMAKE_CXX_COMPILER": tools.cxx.path,
        "CMAKE_CXX_FLAGS": "-Werror",
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
        "SEQEXPORT_VERSION": library.version(),
        "SEQEXPORT_TENSORRT_RTX": "ON",
        "TENSORRT_ROOT": _linked_rtx(),
        "TENSORRT_INCLUDE_DIR": headers(RTX_HEADERS),
    }
    configure = [cmake, "-S", SOURCES, "-B", folder, "-G", tools.generator]
    configured = run(*configure, *(f"-D{name}={value}" for name, value in definitions.items()))
    if "nlohmann/json.hpp is needed" in configured.stderr:
        leave_out("tests/cpp left out: no nlohmann/json.hpp (apt install nlohmann-json3-dev)")
    assert configured.returncode == 0, configured.stderr
    built = run(cmake, "--build", folder, "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "seqexport-build"


def _linked_rtx() -> Path:
    """A folder with the package's libraries under the names that linker, loader and parser look for."""
    folder, package = WORK / "rtx_libraries", _rtx_package()
    assert package is not None
    folder.mkdir(exist_ok=True)
    for file in package.glob("libtensorrt*_rtx.so.*"):
        stem = re.sub(r"\.so\..*", ".so", file.name)
        for name in (stem, f"{stem}.1"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(file)
    return folder


@pytest.fixture(scope="session")
def package() -> Installed:
    return _installed(ADDRESS)


@pytest.fixture(scope="session")
def race_checked() -> Installed:
    leave_out_of_short_runs("libseqexport under ThreadSanitizer")
    return _installed(THREAD)


@pytest.fixture(scope="session")
def on_aarch64() -> Installed:
    return _installed(AARCH64)


def _installed(kind: Kind) -> Installed:
    WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / f"{kind.name}.lock"):
        return installed(kind)


@pytest.fixture(scope="session")
def on_tensorrt() -> Installed:
    WORK.mkdir(parents=True, exist_ok=True)
    with FileLock(WORK / "tensorrt.lock"):
        return gpu.installed_on_tensorrt()


@pytest.fixture(scope="session")
def shipped_package() -> Installed:
    return _installed(SHIPPED)


@pytest.fixture(scope="session")
def mamba(exported: Exported) -> Bundle:
    return exported("preset:mamba", target="ort", dtype="float32", logits="last")


@pytest.fixture(scope="session")
def build(executable: Path) -> Build:
    """Runs seqexport-build with arguments; no plugin library is installed but those that ``plugins`` holds."""

    def seqexport_build(*args: object, plugins: Path = Path("/nonexistent"), **more: Any) -> Result:
        environment = {"PATH": os.environ["PATH"], "SEQEXPORT_PLUGINS": str(plugins), **more.pop("env", {})}
        done = run(executable, *args, env=environment, **more)
        return Result(done.returncode, done.stdout, done.stderr)

    return seqexport_build


@pytest.fixture(scope="session")
def plugins(executable: Path, native_library: Callable[[str], Path]) -> Path:
    """The folder of our compiled plugin library, built for TensorRT 10 or later."""
    folder = native_library("tensorrt").parent
    version = library.built(folder)["tensorrt"].built_for["tensorrt"]
    if int(version.partition(".")[0]) < 10:
        leave_out(f"tests/cpp with plugins left out: the headers found here are TensorRT {version}'s, older than 10")
    return folder
