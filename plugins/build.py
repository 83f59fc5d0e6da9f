"""Compiles the plugin libraries from the sources beside this file and installs them where ``library`` finds them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from seqexport.plugins import folders, library, toolchain
from seqexport.plugins.children import started
from seqexport.plugins.cores import usable_cores
from seqexport.plugins.errors import UserError
from seqexport.plugins.install import install
from seqexport.plugins.library import Built
from seqexport.plugins.locks import Lock, locked
from seqexport.plugins.toolchain import Toolchain

SOURCE = Path(__file__).parent
JOB_BYTES = 2 << 30
STEP = re.compile(r"^\[ *(?:(?P<done>\d+)/(?P<total>\d+)|(?P<percent>\d+)%)\] *(?P<what>.*)")
NEEDS = {
    "kernels": ("cuda", "architectures"),
    "tensorrt": ("cuda", "architectures", "tensorrt"),
    "onnxruntime": ("cuda", "architectures", "onnxruntime"),
}
"""What a library is built for, as its manifest entry keeps it."""

OnStep = Callable[[float, str], None]
"""Told the share that is done, 0 to 1, and the step."""


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        architectures: such as ``("87", "90")``; empty: those of the GPUs in the machine, else a fat build.
        tensorrt_include: TensorRT's headers; None: searched for.
        onnxruntime_include: ONNX Runtime's headers; None: searched for.
        jobs: compilers at a time; None: by cores and memory.
        output: the folder that gets the libraries; None: ``library.folder()``.
    """

    architectures: tuple[str, ...] = ()
    tensorrt_include: Path | None = None
    onnxruntime_include: Path | None = None
    jobs: int | None = None
    output: Path | None = None


@dataclass(frozen=True)
class Found:
    """What CMake found, and hence builds.

    Attributes:
        libraries: names of the libraries that it builds.
        versions: ``cuda``, ``architectures``, ``tensorrt``, ``onnxruntime``: of compiler and headers.
        headers: ``tensorrt`` and ``onnxruntime`` to where their headers come from, or why there are none.
    """

    libraries: tuple[str, ...]
    versions: dict[str, str]
    headers: dict[str, str]


class Build:
    """One build: ``configure``, then ``compile``, then ``install``, within ``locked``.

    Raises:
        UserError: this is no Linux, a tool is missing, an architecture is unknown to nvcc, or a step fails; nothing is
            installed then.
    """

    def __init__(self, options: Options, tools: Toolchain) -> None:
        if platform.system() != "Linux":
            raise UserError(
                f"the plugin libraries are compiled on Linux, and this is {platform.system()}; "
                "without them ONNX Runtime runs the ops' function bodies"
            )
        for tool in (tools.cmake, tools.make, tools.cxx):
            if tool.path is None:
                raise UserError(f"{tool.name}: {tool.found}; install it: {tool.advice}")
        self.options, self.tools = options, tools
        self.architectures = options.architectures or tuple(f"{name}-real" for name in toolchain.gpu_architectures())
        if tools.nvcc.path:
            _check_architectures(self.architectures, tools.nvcc.path)
        self.output = (options.output or library.folder()).expanduser().absolute()
        _check_writable(self.output)
        self.folder = _build_folder(tools, self.architectures)
        self.log = self.folder / "build.log"
        self._lock = Lock(self.folder / "lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Waits for another build in the same folder to end, and for the compilers of one that was killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self._lock):
            self.log.write_text("")
            yield

    def configure(self) -> Found:
        """Lets CMake look for what is here."""
        options, tools = self.options, self.tools
        definitions = {
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_MAKE_PROGRAM": tools.make.path,
            "CMAKE_CXX_COMPILER": tools.cxx.path,
            "SEQEXPORT_VERSION": library.version(),
            "SEQEXPORT_CUDA": "ON" if tools.nvcc.path else "OFF",
            "SEQEXPORT_HEADERS_CACHE": folders.cache() / "seqexport" / "headers",
            "TENSORRT_VERSION": toolchain.tensorrt_version(),
            "ORT_VERSION": toolchain.onnxruntime_version(),
            "TENSORRT_INCLUDE_DIR": _absolute(options.tensorrt_include),
            "ORT_INCLUDE_DIR": _absolute(options.onnxruntime_include),
        }
        if tools.nvcc.path:
            definitions["CMAKE_CUDA_COMPILER"] = tools.nvcc.path
        if self.architectures:
            definitions["CMAKE_CUDA_ARCHITECTURES"] = ";".join(self.architectures)
        arguments = [f"-D{name}={value}" for name, value in definitions.items()]
        self._run("configuring", ["-S", SOURCE, "-B", self.folder, "-G", tools.generator, *arguments])
        return self._found()

    def _found(self) -> Found:
        found: dict[str, str] = json.loads((self.folder / "found.json").read_text())
        headers = {}
        for name in ("tensorrt", "onnxruntime"):
            where = f"{found[name]} from {found[f'{name}_from']}, {found[f'{name}_include']}"
            headers[name] = where if found[name] else f"none: {found[f'{name}_missing']}"
        versions = {name: found[name] for name in ("cuda", "architectures", "tensorrt", "onnxruntime")}
        return Found(tuple(filter(None, found["libraries"].split(";"))), versions, headers)

    def compile(self, on_step: OnStep) -> None:
        """Compiles what ``configure`` found."""
        self._run("compiling", ["--build", self.folder, "--parallel", self.options.jobs or _jobs()], on_step)

    def install(self, found: Found) -> list[Built]:
        """Puts the libraries and their manifest in place; what was there and was not built now stays, if it works."""
        compiled = {name: self.folder / "lib" / library.FILES[name] for name in found.libraries}
        versions = {name: version for name, version in found.versions.items() if version}
        built_for = {name: {need: versions[need] for need in NEEDS[name] if need in versions} for name in compiled}
        try:
            return install(self.output, compiled, built_for)
        except OSError as error:
            raise UserError(
                f"{self.output}: cannot be written ({error.strerror}); give another folder: --output"
            ) from error

    def _run(self, doing: str, arguments: list[object], on_step: OnStep = lambda share, what: None) -> None:
        command = [str(self.tools.cmake.path), *map(str, arguments)]
        lines = []
        descriptor = self._lock.descriptor
        with self.log.open("a", encoding="utf-8") as log, started(command, descriptor) as process:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                if step := STEP.match(line):
                    share = int(step["percent"]) / 100 if step["percent"] else int(step["done"]) / int(step["total"])
                    on_step(share, step["what"])
        if process.returncode:
            reason = first_error(lines) or f"{command[0]} exited with {process.returncode}"
            raise UserError(f"{doing} the plugin libraries failed: {reason}; the whole log: {self.log}")


def first_error(lines: list[str]) -> str:
    """What a compiler, the linker or else CMake says first is wrong, in one line; empty if nothing looks like it."""
    for line in lines:
        if re.search(r"\b(fatal )?error *:|\bfatal *:|undefined reference|CMake Error:", line):
            return line.strip()
    start = next((i + 1 for i, line in enumerate(lines) if line.startswith("CMake Error")), len(lines))
    told = itertools.takewhile(lambda line: line.startswith("  ") or not line.strip(), lines[start:])
    return " ".join(" ".join(told).split())[:300]


def parse_architectures(text: str | None) -> tuple[str, ...]:
    """``90``, ``sm_90``, ``9.0``, or ``90-real`` (no PTX for later GPUs), and lists with commas, as CMake spells them.

    Raises:
        UserError: something in it is no architecture.
    """
    names = [] if text is None else [name.strip() for name in text.split(",")]
    for name in names:
        if not re.fullmatch(r"((sm_|compute_)?\d{2,3}[af]?|\d{1,2}\.\d)(-real|-virtual)?", name):
            raise UserError(f"--cuda-arch {name!r}: not an architecture; give numbers such as 87 or 90, with commas")
    return tuple(re.sub(r"^(sm|compute)_|\.", "", name) for name in names)


def _check_architectures(architectures: tuple[str, ...], nvcc: Path) -> None:
    known = toolchain.nvcc_architectures(nvcc) if architectures else []
    for architecture in architectures if known else ():
        if re.sub(r"[af]?(-real|-virtual)?$", "", architecture) not in known:
            raise UserError(
                f"--cuda-arch {architecture}: {nvcc} compiles for {', '.join(known)}; "
                "give one of them, or install another CUDA Toolkit"
            )


def _check_writable(output: Path) -> None:
    existing = next(path for path in (output, *output.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"{output}: cannot be written; give another folder: --output")


def _build_folder(tools: Toolchain, architectures: tuple[str, ...]) -> Path:
    """In the user's cache, one for each set of tools and architectures, so that a second build has little to do."""
    key = "\n".join([str(SOURCE), *(f"{tool.path} {tool.version}" for tool in tools.all), *architectures])
    return folders.cache() / "seqexport" / "build" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _absolute(folder: Path | None) -> str:
    return str(folder.expanduser().absolute()) if folder else ""


def _jobs() -> int:
    memory = int(psutil.virtual_memory().available / JOB_BYTES)
    return max(1, min(usable_cores(), memory))
