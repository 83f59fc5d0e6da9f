"""Building: what is missing or wrong is named in one line, and then nothing is installed."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from seqexport.plugins import build as building
from seqexport.plugins import library, toolchain
from seqexport.plugins.build import Build, Options, first_error, parse_architectures
from seqexport.plugins.errors import UserError
from seqexport.plugins.toolchain import Tool, Toolchain, find_toolchain
from tests.conftest import leave_out
from tests.plugins import stand_in
from tests.tensorrt.compiler import headers

SOURCES = {
    "CMakeLists.txt": """
cmake_minimum_required(VERSION 3.18)
project(tiny LANGUAGES CXX)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
add_library(seqexport_ort SHARED tiny.cpp)
file(WRITE "${CMAKE_BINARY_DIR}/found.json" [[{"libraries": "onnxruntime", "cuda": "", "architectures": "",
 "tensorrt": "", "tensorrt_include": "", "tensorrt_from": "", "tensorrt_missing": "no network",
 "onnxruntime": "1.18.0", "onnxruntime_include": "/include", "onnxruntime_from": "the cache",
 "onnxruntime_missing": ""}]])
""",
    "tiny.cpp": 'extern "C" int tiny() { return 42; }\n',
}
"""Stands in for the plugins' sources, which take a minute to compile."""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for name, text in SOURCES.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(building, "SOURCE", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "plugins"))
    return folder


@pytest.fixture
def tools() -> Toolchain:
    found = find_toolchain()
    if not all(tool.path for tool in (found.cmake, found.make, found.cxx)):
        leave_out("tests of building plugins left out: no C++ compiler, CMake, or ninja or make")
    return found


def missing(tool: Tool) -> Tool:
    return dataclasses.replace(tool, path=None, version="")


def run(options: Options, tools: Toolchain) -> list[library.Built]:
    work = Build(options, tools)
    with work.locked():
        found = work.configure()
        work.compile(lambda share, what: None)
        return work.install(found)


def without_nvcc(tools: Toolchain) -> Toolchain:
    return dataclasses.replace(tools, nvcc=missing(tools.nvcc))


@pytest.mark.parametrize("name", ["cmake", "make", "cxx"])
def test_a_missing_tool_is_named_with_what_to_install(tools: Toolchain, name: str) -> None:
    lacking = dataclasses.replace(tools, **{name: missing(getattr(tools, name))})
    with pytest.raises(UserError, match=r"not found; install it: (pip|apt) install"):
        Build(Options(), lacking)


def test_tools_are_looked_for_on_path_and_beside_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "venv/bin/python"))
    assert [tool.path for tool in find_toolchain().all[:3]] == [None] * 3
    program = tmp_path / "venv/bin/cmake"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho cmake version 3.16.3\n")
    program.chmod(0o755)
    old = find_toolchain().cmake
    assert (old.path, old.version) == (None, f"3.16.3, {program} is older than 3.18")
    program.write_text("#!/bin/sh\necho cmake version 3.18.0\n")
    assert find_toolchain().cmake == Tool("cmake", program, "3.18.0", "pip install cmake")


def test_a_compiler_that_the_environment_names_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDACXX", "/nowhere/nvcc")
    assert toolchain.find_nvcc().path is None


def test_builds_and_is_found_afterwards(sources: Path, tools: Toolchain) -> None:
    (built,) = run(Options(), without_nvcc(tools))
    assert library.find("onnxruntime") == built
    assert built.built_for == {"onnxruntime": "1.18.0"}
    assert ctypes.CDLL(str(built.path)).tiny() == 42
    name = f"libseqexport_ort-{built.sha256[:16]}.so"
    assert sorted(p.name for p in built.path.parent.iterdir()) == [name, "plugins.json"]


def test_what_was_built_before_stays_while_it_works(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    entries = []
    for name, version in (("kernels", library.version()), ("tensorrt", "0.0.9")):
        path = folder / library.FILES[name]
        path.write_bytes(b"\x7fELF")
        digest = library.sha256_of(path)
        entries.append(library.Built(name, path, digest, version, {}))
    (folder / library.MANIFEST).write_bytes(library.manifest_of(entries))
    run(Options(), without_nvcc(tools))
    assert library.built().keys() == {"kernels", "onnxruntime"}


def test_libraries_and_their_manifest_are_replaced_together(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    (built,) = run(Options(), without_nvcc(tools))
    before = built.path.read_bytes()
    (tmp_path / "plugins" / library.MANIFEST).unlink()
    (tmp_path / "plugins" / library.MANIFEST).mkdir()
    (sources / "tiny.cpp").write_text('extern "C" int tiny() { return 43; }\n')
    with pytest.raises(UserError, match=r"plugins: cannot be written"):
        run(Options(), without_nvcc(tools))
    assert built.path.read_bytes() == before


def test_another_folder(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    (built,) = run(Options(output=tmp_path / "own"), without_nvcc(tools))
    assert built.path.parent == tmp_path / "own"
    assert library.find("onnxruntime") is None


def test_a_compile_error_is_one_line_with_the_log(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    (sources / "tiny.cpp").write_text('#include "absent.h"\n')
    with pytest.raises(UserError) as raised:
        run(Options(), without_nvcc(tools))
    message = str(raised.value)
    assert message.startswith("compiling the plugin libraries failed: ")
    assert "tiny.cpp:1:10: fatal error: absent.h: No such file or directory; the whole log: " in message
    log = Path(message.rsplit("the whole log: ", 1)[1])
    assert "absent.h" in log.read_text()
    assert not (tmp_path / "plugins").exists()


def test_a_configure_error_is_one_line_with_the_log(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    with (sources / "CMakeLists.txt").open("a") as stream:
        stream.write('message(FATAL_ERROR "no such thing here")\n')
    with pytest.raises(UserError, match=r"^configuring .* failed: no such thing here; the whole log: /.*build\.log$"):
        run(Options(), without_nvcc(tools))
    assert not (tmp_path / "plugins").exists()


def test_a_compiler_that_compiles_nothing(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'c++: fatal error: no input files were liked' >&2\nexit 1\n")
    fake.chmod(0o755)
    broken = dataclasses.replace(without_nvcc(tools), cxx=Tool("C++ compiler", fake, "1.0", ""))
    with pytest.raises(UserError, match="c\\+\\+: fatal error: no input files were liked"):
        run(Options(), broken)


def test_a_folder_that_cannot_be_written(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=r"cannot be written; give another folder: --output"):
            Build(Options(output=output), tools)
    work = Build(Options(), without_nvcc(tools))
    with work.locked():
        found = work.configure()
        work.compile(lambda share, what: None)
    (tmp_path / "plugins").write_text("in the way since then")
    with pytest.raises(UserError, match=r"plugins: cannot be written \(.+\); give another folder: --output"):
        work.install(found)


def test_an_interrupt_ends_the_compilers(sources: Path, tools: Toolchain, tmp_path: Path) -> None:
    marker = tmp_path / "still-compiling"
    with (sources / "CMakeLists.txt").open("a") as stream:
        stream.write(f'add_custom_command(OUTPUT slow.cpp COMMAND sleep 30 COMMAND touch "{marker}")\n')
        stream.write("add_library(slow SHARED slow.cpp)\nadd_dependencies(slow seqexport_ort)\n")
    work = Build(Options(), without_nvcc(tools))

    def interrupt(share: float, what: str) -> None:
        raise KeyboardInterrupt

    with work.locked():
        work.configure()
        with pytest.raises(KeyboardInterrupt):
            work.compile(interrupt)
    assert not marker.exists()
    assert not (tmp_path / "plugins").exists()


def test_two_builds_at_once_take_turns(sources: Path, tools: Toolchain) -> None:
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(run(Options(), without_nvcc(tools)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert library.find("onnxruntime") is not None


def test_a_kill_ends_the_compilers_and_the_next_build_waits_for_that(tmp_path: Path) -> None:
    """Whatever the killed one had started: nothing of it goes on beside the next one in the same folder."""
    command = [sys.executable, "-m", "tests.plugins.stand_in", tmp_path]
    slow = {**os.environ, "SECONDS_TO_COMPILE": "60"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=slow) as killed:
        assert killed.stdout is not None
        pid = Path(killed.stdout.readline().strip()) / "compiler.pid"
        compiler = psutil.Process(int(until(lambda: pid.exists() and pid.read_text())))
        killed.send_signal(signal.SIGKILL)
    assert subprocess.run(command, check=True, timeout=30, stdout=subprocess.DEVNULL)
    assert not compiler.is_running() or compiler.status() == psutil.STATUS_ZOMBIE
    left = [path.name for path in (tmp_path / "plugins").iterdir()]
    assert len(left) == 2 and library.MANIFEST in left
    assert not list(tmp_path.rglob("lock"))


def until(found: Callable[[], str | bool]) -> str:
    for _ in range(500):
        if it := found():
            return str(it)
        time.sleep(0.02)
    raise TimeoutError


def test_a_build_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "plugins"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (built,) = stand_in.build(tmp_path)
    before = sorted((tmp_path / "plugins").iterdir())

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"plugins: cannot be written \(No space left on device\)"):
            stand_in.build(tmp_path)
    assert sorted((tmp_path / "plugins").iterdir()) == before
    assert library.require("onnxruntime") == built


@pytest.mark.parametrize(("text", "expected"), [
    (None, ()),
    ("90", ("90",)),
    ("sm_87, 9.0,compute_120", ("87", "90", "120")),
    ("90a", ("90a",)),
    ("8.7-real,sm_90-virtual", ("87-real", "90-virtual")),
])  # fmt: skip
def test_architectures(text: str | None, expected: tuple[str, ...]) -> None:
    assert parse_architectures(text) == expected


@pytest.mark.parametrize("text", ["", "9", "hopper", "90,", "sm_", "90;80", "90-whatever"])
def test_what_is_no_architecture_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--cuda-arch .*: not an architecture; give numbers such as 87 or 90"):
        parse_architectures(text)


def test_an_architecture_that_nvcc_does_not_know_is_refused(tools: Toolchain) -> None:
    if tools.nvcc.path is None:
        leave_out("tests of CUDA architectures left out: no nvcc")
    with pytest.raises(UserError, match=r"--cuda-arch 13-real: .*nvcc compiles for .*\b90\b.*give one of them"):
        Build(Options(("90-real", "13-real")), tools)


def test_a_cuda_compiler_outside_of_its_toolkit(tools: Toolchain, tmp_path: Path) -> None:
    """CMake before 3.25 takes its folder for the toolkit's: nothing may be looked for there."""
    include = headers("8.6.1")
    if tools.nvcc.path is None or include is None:
        leave_out("a test of nvcc outside of its toolkit left out: no nvcc, or no cached headers of TensorRT 8.6.1")
    wrapper = tmp_path / "bin" / "nvcc"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {tools.nvcc.path} "$@"\n')
    wrapper.chmod(0o755)
    definitions = {
        "CMAKE_CUDA_COMPILER": wrapper,
        "CMAKE_CUDA_ARCHITECTURES": "90",
        "CMAKE_MAKE_PROGRAM": tools.make.path,
        "TENSORRT_INCLUDE_DIR": include,
    }
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    command = [tools.cmake.path, "-S", building.SOURCE, "-B", tmp_path / "build", "-G", tools.generator, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"kernels", "tensorrt"} <= set(
        json.loads((tmp_path / "build/found.json").read_text())["libraries"].split(";")
    )
    assert str(wrapper.parent) not in (tmp_path / "build/CMakeCache.txt").read_text().replace(str(wrapper), "")


def test_hopper_is_compiled_for_with_its_own_instructions(tools: Toolchain, tmp_path: Path) -> None:
    if tools.nvcc.path is None or int(tools.nvcc.version.split(".")[0]) < 12:
        leave_out("tests of sm_90a left out: no nvcc of CUDA 12 or later")
    definitions = {
        "CMAKE_CUDA_COMPILER": tools.nvcc.path,
        "CMAKE_CUDA_ARCHITECTURES": "80-real;90",
        "CMAKE_MAKE_PROGRAM": tools.make.path,
        "CMAKE_EXPORT_COMPILE_COMMANDS": "ON",
    }
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    command = [tools.cmake.path, "-S", building.SOURCE / "kernels", "-B", tmp_path, "-G", tools.generator, *options]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    compiled = json.loads((tmp_path / "compile_commands.json").read_text())
    scan = next(entry["command"] for entry in compiled if entry["file"].endswith("selective_scan.cu"))
    assert re.findall(r"code=\[([^\]]+)\]", scan) == ["sm_80", "sm_90a", "compute_90"]


@pytest.mark.parametrize(("log", "line"), [
    ("a.cu(3): error: x is undefined\nb.cu(1): error: y", "a.cu(3): error: x is undefined"),
    ("nvcc fatal   : Unsupported gpu", "nvcc fatal   : Unsupported gpu"),
    ("ptxas error   : too much shared data", "ptxas error   : too much shared data"),
    ("a.o: undefined reference to `f'\ncollect2: error: ld", "a.o: undefined reference to `f'"),
    ("-- ok\nCMake Error at a.cmake:1 (message):\n  this is\n  wrong\nCall Stack:\n  b", "this is wrong"),
    ("all is well", ""),
])  # fmt: skip
def test_the_first_error_of_a_log(log: str, line: str) -> None:
    assert first_error(log.splitlines(keepends=True)) == line


def test_the_real_libraries(native_plugins: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Built from this checkout by the code under test; they load, and a damaged copy is not used."""
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(native_plugins))
    names = list(library.built())
    assert names
    for name in names:
        ctypes.CDLL(str(library.require(name).path))
    shutil.copytree(native_plugins, tmp_path / "copy")
    monkeypatch.setenv("SEQEXPORT_PLUGINS", str(tmp_path / "copy"))
    for name in names:
        with library.require(name).path.open("r+b") as stream:
            stream.truncate(100)
        with pytest.raises(UserError, match="damaged"):
            library.find(name)
