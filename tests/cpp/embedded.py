"""libseqexport on ONNX Runtime, built and installed, and programs against it: with sanitizers here, or for aarch64."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import onnxruntime

from seqexport.plugins import library, toolchain
from tests.cli.conftest import Result
from tests.conftest import leave_out
from tests.onnxruntime.cxx import headers, headers_and_library

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "runtimes" / "cpp"
EMBEDDING, ASSISTANT = ROOT / "tests" / "cpp" / "embedding", ROOT / "examples" / "jetson"
WORK = ROOT / "build" / "cpp"
WHAT = "tests of libseqexport"
CROSS, EMULATOR, LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", Path("/usr/aarch64-linux-gnu/lib")
PROCESSOR = """processor\t: {number}
Features\t: fp asimd evtstrm crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd42
CPU revision\t: 0

"""
"""Of an Orin, in /proc/cpuinfo. The emulator shows this machine's, and ONNX Runtime ends where that names no Arm."""


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


@dataclass(frozen=True)
class Kind:
    """How it is built: ``name`` is its folder's, a ``release`` is what users make; ``runs_in`` is before a program."""

    name: str
    flags: str = ""
    crosses: bool = False
    release: bool = False

    @property
    def runs_in(self) -> tuple[str, ...]:
        return (EMULATOR, "-L", str(WORK / self.name / "root")) if self.crosses else ()

    @property
    def definitions(self) -> dict[str, object]:
        tools = toolchain.find_toolchain()
        common = {"CMAKE_MAKE_PROGRAM": tools.make.path, "CMAKE_BUILD_TYPE": "Release" if self.release else "None",
                  "CMAKE_CXX_FLAGS": "-Werror" if self.release else f"-Werror {self.flags}"}  # fmt: skip
        if self.crosses:
            return {**common, "CMAKE_CXX_COMPILER": CROSS, "CMAKE_SYSTEM_NAME": "Linux",
                    "CMAKE_SYSTEM_PROCESSOR": "aarch64"}  # fmt: skip
        return {**common, "CMAKE_CXX_COMPILER": tools.cxx.path}


ADDRESS = Kind("onnxruntime", "-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all")
THREAD = Kind("onnxruntime-threads", "-O1 -g -fsanitize=thread")
"""What the sanitizers look for: memory and undefined behaviour, or races; one build cannot have both.

With -O0 nothing that they look for is optimised away, and with -g1 it compiles in two fifths of the time of -O1 -g.
"""

AARCH64 = Kind("onnxruntime-aarch64", "-O0", crosses=True)
"""Compiled in two thirds of the time; what takes time in the emulator is ONNX Runtime."""

SHIPPED = Kind("onnxruntime-shipped", release=True)


@dataclass(frozen=True)
class Installed:
    """Where ``cmake --install`` put it, and the programs that embed it, ready to run."""

    prefix: Path
    embedding: tuple[object, ...]
    assistant: tuple[object, ...]
    runs_in: tuple[str, ...] = ()

    @property
    def library(self) -> Path:
        return next(self.prefix.glob("lib*/libseqexport.so"))

    def run(self, *args: object, tool: str = "seqexport-run", env: dict[str, str] | None = None) -> Result:
        """One of the tools, with arguments; a full disk is told to it as an error, and not as a signal."""
        environment = {**os.environ, **(env or {})}
        done = run(*self.runs_in, self.prefix / "bin" / tool, *args, restore_signals=False, env=environment)
        return Result(done.returncode, done.stdout, done.stderr)


def installed(kind: Kind) -> Installed:
    tools = toolchain.find_toolchain()
    if lacking := [tool.name for tool in (tools.cmake, tools.make, tools.cxx) if tool.path is None]:
        leave_out(f"{WHAT} left out: no {', no '.join(lacking)}")
    work = WORK / kind.name
    work.mkdir(parents=True, exist_ok=True)
    include, runtime = _onnxruntime(kind, work)
    return cmake_built(kind, SEQEXPORT_BACKEND="onnxruntime", ORT_INCLUDE_DIR=include, ORT_LIBRARY=runtime)


def cmake_built(kind: Kind, **backend: object) -> Installed:
    """The library of a backend, installed, and the programs that embed it.

    Where the sources are as they were, nothing is touched: to install the library again is to link the programs again,
    which other tests may be running.
    """
    tools, work = toolchain.find_toolchain(), WORK / kind.name
    programs = [(*kind.runs_in, work / name / name) for name in ("embedding", "assistant")]
    made = Installed(work / "installed", *programs, kind.runs_in)
    stamp, told = work / "built", _digest(kind, backend)
    if stamp.exists() and stamp.read_text() == told:
        return made
    stamp.unlink(missing_ok=True)
    _built(SOURCES, work / "library", kind, SEQEXPORT_VERSION=library.version(),
           CMAKE_INSTALL_PREFIX=work / "installed", **backend)  # fmt: skip
    done = run(tools.cmake.path, "--install", work / "library")
    assert done.returncode == 0, done.stderr
    for sources, name in ((EMBEDDING, "embedding"), (ASSISTANT, "assistant")):
        _built(sources, work / name, kind, CMAKE_PREFIX_PATH=work / "installed")
    stamp.write_text(told)
    return made


def _digest(kind: Kind, backend: dict[str, object]) -> str:
    """Of all that is compiled, and of how."""
    digest = hashlib.sha256(repr((kind, library.version(), sorted(backend.items()))).encode())
    for folder in (SOURCES, EMBEDDING, ASSISTANT):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _onnxruntime(kind: Kind, work: Path) -> tuple[Path, Path]:
    """The folder of its headers, and its library for the machine that the programs are for."""
    if kind.crosses:
        runtime = _onnxruntime_for_aarch64(work)
        _make_root(work / "root")
        return headers(WHAT), runtime
    return headers_and_library(work, WHAT)


def _onnxruntime_for_aarch64(work: Path) -> Path:
    """The library of the wheel for aarch64, which pip has of the same version."""
    if missing := [program for program in (CROSS, EMULATOR) if shutil.which(program) is None]:
        leave_out(f"{WHAT} on aarch64 left out: no {', no '.join(missing)}")
    version = onnxruntime.__version__
    file = work / version / "libonnxruntime.so.1"
    if file.is_file():
        return file
    platforms = [f"--platform=manylinux_2_{libc}_aarch64" for libc in (17, 27, 28)]
    done = run(sys.executable, "-m", "pip", "download", f"onnxruntime=={version}", "--no-deps", "--only-binary=:all:",
               *platforms, f"--python-version={platform.python_version()}", "--dest", work)  # fmt: skip
    if done.returncode:
        leave_out(f"{WHAT} on aarch64 left out: pip has no onnxruntime {version} for it here")
    with zipfile.ZipFile(next(work.glob(f"onnxruntime-{version}-*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if "/libonnxruntime.so." in name)
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(".part")
        part.write_bytes(wheel.read(member))
        part.rename(file)
    return file


def _make_root(root: Path) -> None:
    """The files of another machine, which the emulator takes before this one's."""
    (root / "proc").mkdir(parents=True, exist_ok=True)
    processors = "".join(PROCESSOR.format(number=number) for number in range(os.cpu_count() or 1))
    (root / "proc" / "cpuinfo").write_text(processors)
    if not (root / "lib").is_symlink():
        (root / "lib").symlink_to(LIBRARIES)


def _built(source: Path, folder: Path, kind: Kind, **definitions: object) -> None:
    tools = toolchain.find_toolchain()
    given = [f"-D{name}={value}" for name, value in {**kind.definitions, **definitions}.items()]
    configured = run(tools.cmake.path, "-S", source, "-B", folder, "-G", tools.generator, *given)
    if "nlohmann/json.hpp is needed" in configured.stderr:
        leave_out(f"{WHAT} left out: no nlohmann/json.hpp (apt install nlohmann-json3-dev)")
    assert configured.returncode == 0, configured.stderr
    built = run(tools.cmake.path, "--build", folder, "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr


class Embedding:
    """The program with a bundle open: commands in, answers out."""

    def __init__(
        self, program: Sequence[object], bundle: Path, *plugins: Path, env: dict[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [str(word) for word in (*program, bundle, *plugins)],
            text=True,
            errors="replace",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
        )

    def __call__(self, *words: object) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(*words, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer.endswith("\n"), f"{words[:8]}: the program ended with {self._process.wait()}"
        return answer.strip()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tokens(self, *words: object) -> list[int]:
        return [int(word) for word in self(*words).split()]

    def __enter__(self) -> Embedding:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.communicate()
        assert self._process.returncode == 0 or error is not None
