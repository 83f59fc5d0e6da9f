"""libseqexport in C++ on TensorRT: token for token what Python says, and what it costs on top of the bare engine.

The library is compiled with the TensorRT that --tensorrt-python loads. Sessions go to Python as files, and back.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import Version

from seqexport.exporter.benchmarks.bundles import SHIPPED, Wanted, ensure_bundle, for_engines
from seqexport.exporter.benchmarks.results import Row
from seqexport.exporter.benchmarks.setting import SOURCE, LeftOut, Setting, StepFailed
from seqexport.exporter.benchmarks.steps.harness import cached_headers
from seqexport.exporter.benchmarks.steps.models import ensure_engine
from seqexport.plugins import library
from seqexport.plugins.toolchain import find_toolchain
from seqexport.runtimes.benchmarks.lock import alone
from seqexport.runtimes.benchmarks.session_tokens import FIRST, REST, WAYS

TIMED = (Wanted("mamba-130m", "fp16"), Wanted("mamba-1.4b", "fp16"))
BARE_SHARE = 1 / 1.03
SWITCH_US, COPY_SHARE, RESTORE_FASTER = 20.0, 0.5, 50.0
HOST_GROWTH, DEVICE_GROWTH = 4.0, 2.0
"""MiB, from a tenth of the sessions to all of them."""

PROMPT = [32 + i * 37 % 90 for i in range(300)]
SOURCES = SOURCE / "runtimes" / "cpp"
ASK = "import json, os, tensorrt; print(json.dumps([tensorrt.__version__, os.path.dirname(tensorrt.__file__), \
os.environ.get('LD_LIBRARY_PATH', '')]))"


@dataclass(frozen=True)
class Programs:
    """What was compiled, and the environment that it finds TensorRT with."""

    folder: Path
    env: dict[str, str]

    def run(self, setting: Setting, name: str, *arguments: object, log: str) -> str:
        return setting.run([self.folder / name, *arguments], log=log, env=self.env)


def run(setting: Setting) -> Iterator[Row]:
    setting.require_tensorrt()
    if not (SOURCES / "CMakeLists.txt").exists():
        raise LeftOut(f"no {SOURCES}: it is in the source checkout, not in the wheel")
    programs = compile_programs(setting)
    yield Row("compiled", passed=True, detail={"bytes": (programs.folder / "libseqexport.so").stat().st_size})
    spoken = [wanted for wanted in for_engines(setting) if wanted.model in SHIPPED or wanted.given]
    with ThreadPoolExecutor(setting.jobs) as pool:
        for rows in pool.map(lambda wanted: _tokens(setting, programs, wanted), spoken):
            yield from rows
    for wanted in TIMED:
        if setting.wants(wanted.model):
            yield from _speed(setting, programs, wanted)


def compile_programs(setting: Setting) -> Programs:
    """The library, its tools and what times it, without seqexport-build."""
    tools, folder = find_toolchain(), setting.work / "embedded"
    if lacking := [tool.name for tool in (tools.cmake, tools.make, tools.cxx) if tool.path is None]:
        raise LeftOut(f"no {', no '.join(lacking)}")
    path = {} if setting.tensorrt_path is None else {"PYTHONPATH": setting.tensorrt_path}
    asked = setting.run([setting.tensorrt_python, "-c", ASK], log="embedded-tensorrt", env=path)
    version, package, places = json.loads(asked.splitlines()[-1])
    definitions = {
        "CMAKE_MAKE_PROGRAM": tools.make.path,
        "CMAKE_CXX_COMPILER": tools.cxx.path,
        "SEQEXPORT_VERSION": library.version(),
        "SEQEXPORT_BUILDER": "OFF",
        "SEQEXPORT_BENCHMARKS": "ON",
        **_tensorrt(Version(version), Path(package)),
    }
    options = [f"-D{name}={value}" for name, value in definitions.items()]
    command = [tools.cmake.path, "-S", SOURCES, "-B", folder, "-G", tools.generator, *options]
    setting.run(command, log="embedded-configure")
    setting.run([tools.cmake.path, "--build", folder, "--parallel"], log="embedded-compile")
    return Programs(folder, {"LD_LIBRARY_PATH": places} if places else {})


def _tensorrt(version: Version, package: Path) -> dict[str, object]:
    """Headers of its version, or else with the same major and minor, and its library where pip put it."""
    found: dict[str, object] = {}
    for name, include in cached_headers().items():
        its, asked = Version(name).release, version.release[:3]
        if its == asked or (its[:2] == asked[:2] and "TENSORRT_INCLUDE_DIR" not in found):
            found["TENSORRT_INCLUDE_DIR"] = include
    for folder in (package, package.with_name("tensorrt_libs")):
        for file in folder.glob(f"libnvinfer.so.{version.major}"):
            found["TENSORRT_LIBRARY"] = file
    return found


def _tokens(setting: Setting, programs: Programs, wanted: Wanted) -> list[Row]:
    """For each way of choosing: the same first tokens, and the same after either's file."""
    try:
        said = _said(setting, programs, wanted)
    except StepFailed as failure:
        return [Row(f"{wanted.name}: tokens", passed=False, detail={"error": str(failure)})]
    return list(token_rows(wanted.name, *said))


def _said(setting: Setting, programs: Programs, wanted: Wanted) -> tuple[dict[str, Any], dict[str, Any]]:
    folder, files = ensure_bundle(setting, wanted), setting.work / "sessions" / wanted.name
    ensure_engine(setting, wanted, setting.work / "gpu.lock")
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True)
    tokens = ",".join(map(str, PROMPT))

    def spoken(way: str, count: int, *arguments: object) -> list[int]:
        log = f"embedded-{wanted.name}-{way}-{count}"
        command = [folder, f"--max-new-tokens={count}", *arguments]
        return [int(word) for word in programs.run(setting, "seqexport-run", *command, log=log).split()]

    ours: dict[str, Any] = {}
    for way, chosen in WAYS.items():
        flags = [f"--temperature={chosen.temperature}", f"--top-k={chosen.top_k}", f"--top-p={chosen.top_p}",
                 f"--seed={chosen.seed}"]  # fmt: skip
        saved = files / f"{way}-cpp.safetensors"
        ours[way] = {"first": spoken(way, FIRST, f"--tokens={tokens}", *flags, f"--save={saved}")}
    command = ["runtimes.benchmarks.session_tokens", folder, files, "--tokens", tokens]
    output = setting.tensorrt(*map(str, command), log=f"embedded-{wanted.name}-python")
    for way in WAYS:
        ours[way]["resumed"] = spoken(way, REST, f"--resume={files / f'{way}-python.safetensors'}")
    return ours, json.loads(output.splitlines()[-1])


def token_rows(name: str, ours: dict[str, Any], python: dict[str, Any]) -> Iterator[Row]:
    """Equality, and that something was said; a text that has ended goes on with nothing."""
    for way, theirs in python.items():
        checks = {
            "tokens as Python's": (ours[way]["first"], theirs["first"]),
            "C++ goes on after Python's file": (ours[way]["resumed"], theirs["rest"]),
            "Python goes on after C++'s file": (theirs["resumed"], theirs["rest"]),
        }
        for what, (got, expected) in checks.items():
            passed = got == expected and bool(theirs["first"])
            detail = {} if passed else {"got": got, "expected": expected}
            yield Row(f"{name}, {way}: {what}", passed=passed, detail=detail)


def _speed(setting: Setting, programs: Programs, wanted: Wanted) -> Iterator[Row]:
    lock = setting.work / "gpu.lock"
    try:
        folder = ensure_bundle(setting, wanted)
        ensure_engine(setting, wanted, lock)
        with alone(lock):
            output = programs.run(setting, "seqexport-embedded-speed", folder, log=f"embedded-speed-{wanted.name}")
    except StepFailed as failure:
        yield Row(f"{wanted.name}: speed", passed=False, detail={"error": str(failure)})
        return
    yield from speed_rows(wanted.name, json.loads(output.splitlines()[-1]))


def speed_rows(name: str, found: dict[str, Any]) -> Iterator[Row]:
    """From what seqexport-embedded-speed printed."""
    decode, disk, seen = found["decode"], found["disk"], found["flat"]["seen"]
    times = {what: min(decode[turn][what] for turn in ("first", "second")) for what in decode["first"]}
    yield Row(f"{name}: steps are CUDA graphs", passed=decode["captured"], detail={"why not": decode["no_graph"]})
    for what, title in (("step", "a step"), ("token", "a token, chosen and read")):
        yield Row(f"{name}: {title}: bare engine's share", measured=times["bare"] / times[what], target=BARE_SHARE,
                  detail={"us": {each: round(value * 1e6, 2) for each, value in times.items()}, **found})  # fmt: skip
    yield Row(f"{name}: sessions in turns say what they say alone", passed=found["switching"]["same_tokens"])
    yield Row(f"{name}: switching between sessions", measured=found["switching"]["switch"] * 1e6, unit="us",
              target=SWITCH_US, at_most=True)  # fmt: skip
    for way, whole in (("to_host", "read"), ("to_device", "write")):
        large = disk["large_copy"][way]
        yield Row(f"{name}: copy of a session {way.replace('_', ' ')}: share of the bandwidth",
                  measured=disk["copy"][way] / large, target=COPY_SHARE)  # fmt: skip
        yield Row(f"{name}: {whole} of a session's states, with the host's part: share of the bandwidth",
                  measured=disk["bytes"] / disk[whole] / large)  # fmt: skip
    for what, title in (("restore", "a restore from a file"), ("write", "states from memory")):
        yield Row(f"{name}: {title}, times faster than a prompt of {disk['prompt']}", unit="x",
                  measured=disk["prefill"] / disk[what], target=RESTORE_FASTER)  # fmt: skip
    few, all_of_them = seen[0], seen[-1]
    for title, growth, most in (
        ("host", all_of_them["resident"] - few["resident"], HOST_GROWTH),
        ("device", few["device_free"] - all_of_them["device_free"], DEVICE_GROWTH),
    ):
        yield Row(f"{name}: {title} memory from {few['sessions']} to {all_of_them['sessions']} sessions", unit="MiB",
                  measured=growth / 2**20, target=most, at_most=True)  # fmt: skip
