"""libseqexport on ONNX Runtime, built with sanitizers, installed, and a program of somebody else's against it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from seqexport.plugins import library, toolchain
from tests.cli.conftest import Result
from tests.conftest import leave_out
from tests.onnxruntime.cxx import headers_and_library

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "runtimes" / "cpp"
WORK = ROOT / "build" / "cpp"
ADDRESS, THREAD = "-fsanitize=address,undefined -fno-sanitize-recover=all", "-fsanitize=thread"
"""What the sanitizers look for: memory and undefined behaviour, or races; one build cannot have both."""

SHIPPED = ""
"""Without sanitizers, as users build it."""

FOLDERS = {ADDRESS: "onnxruntime", THREAD: "onnxruntime-threads", SHIPPED: "onnxruntime-shipped"}

WHAT = "tests of libseqexport"


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)


@dataclass(frozen=True)
class Installed:
    """Where ``cmake --install`` put it, and the program that embeds it."""

    prefix: Path
    embedding: Path

    @property
    def library(self) -> Path:
        return next(self.prefix.glob("lib*/libseqexport.so"))

    def run(self, *args: object, tool: str = "seqexport-run") -> Result:
        """One of the tools, with arguments; a full disk is told to it as an error, and not as a signal."""
        done = run(self.prefix / "bin" / tool, *args, restore_signals=False)
        return Result(done.returncode, done.stdout, done.stderr)


def installed(sanitizers: str) -> Installed:
    tools = toolchain.find_toolchain()
    if lacking := [tool.name for tool in (tools.cmake, tools.make, tools.cxx) if tool.path is None]:
        leave_out(f"{WHAT} left out: no {', no '.join(lacking)}")
    work = WORK / FOLDERS[sanitizers]
    work.mkdir(parents=True, exist_ok=True)
    (work / "libonnxruntime.so.1").unlink(missing_ok=True)
    include, runtime = headers_and_library(work, WHAT)
    kind = ("None", f"-Werror -O1 -g {sanitizers}") if sanitizers else ("Release", "-Werror")
    common = {"CMAKE_MAKE_PROGRAM": tools.make.path, "CMAKE_CXX_COMPILER": tools.cxx.path,
              **dict(zip(("CMAKE_BUILD_TYPE", "CMAKE_CXX_FLAGS"), kind, strict=True))}  # fmt: skip
    _built(SOURCES, work / "library", common, SEQEXPORT_BACKEND="onnxruntime", SEQEXPORT_VERSION=library.version(),
           ORT_INCLUDE_DIR=include, ORT_LIBRARY=runtime, CMAKE_INSTALL_PREFIX=work / "installed")  # fmt: skip
    done = run(tools.cmake.path, "--install", work / "library")
    assert done.returncode == 0, done.stderr
    _built(ROOT / "tests" / "cpp" / "embedding", work / "embedding", common, CMAKE_PREFIX_PATH=work / "installed")
    return Installed(work / "installed", work / "embedding" / "embedding")


def _built(source: Path, folder: Path, common: dict[str, object], **definitions: object) -> None:
    tools = toolchain.find_toolchain()
    given = [f"-D{name}={value}" for name, value in {**common, **definitions}.items()]
    configured = run(tools.cmake.path, "-S", source, "-B", folder, "-G", tools.generator, *given)
    if "nlohmann/json.hpp is needed" in configured.stderr:
        leave_out(f"{WHAT} left out: no nlohmann/json.hpp (apt install nlohmann-json3-dev)")
    assert configured.returncode == 0, configured.stderr
    built = run(tools.cmake.path, "--build", folder, "--parallel", "2")
    assert built.returncode == 0, built.stdout + built.stderr


class Embedding:
    """The program with a bundle open: commands in, answers out."""

    def __init__(self, program: Path, bundle: Path, *plugins: Path) -> None:
        self._process = subprocess.Popen(
            [program, bundle, *plugins],
            text=True,
            errors="replace",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(os.environ),
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
