"""cpu_cases: the CPU kernels without ONNX Runtime, under sanitizers and on another architecture."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seqexport.plugins import library
from tests.conftest import leave_out

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"
NEEDED = {"libstdc++", "libm", "libgcc_s", "libc", "ld-linux-aarch64", "ld-linux-x86-64"}
"""What every Linux has; the last two are its loader."""

CROSS, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
SANITIZED = (
    "-DCMAKE_BUILD_TYPE=Debug",
    "-DCMAKE_CXX_FLAGS_DEBUG=-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all",
)
"""With -O3 sanitized kernels compile for minutes: one of them for a minute, where -O1 takes it five seconds."""

AARCH64 = ("-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_CXX_COMPILER={CROSS}")
"""As a toolchain file that does not set CMAKE_SYSTEM_PROCESSOR."""


def configured_and_built(sources: Path, name: str, options: tuple[str, ...]) -> Path:
    folder = BUILD / name
    configure = ["cmake", "-S", sources, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", *options]
    for command in (configure, ["cmake", "--build", folder, "-j2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def check(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def need(*programs: str) -> None:
    if missing := [program for program in programs if shutil.which(program) is None]:
        leave_out(f"tests of the CPU kernels left out: no {', no '.join(missing)}")


def test_no_read_or_write_out_of_bounds(record_property: Callable[[str, object], None]) -> None:
    need("cmake", "c++")
    lines = check(configured_and_built(HERE, "cpu_cases_sanitized", SANITIZED) / "cpu_cases")
    assert any(line.endswith(": passed") for line in lines)
    record_property("instruction sets", "; ".join(lines))


def test_aarch64() -> None:
    need("cmake", CROSS, EMULATOR)
    root = Path("/usr/aarch64-linux-gnu")
    folder = configured_and_built(HERE, "cpu_cases_aarch64", AARCH64)
    assert check(EMULATOR, "-L", root, folder / "cpu_cases") == ["neon: passed"]


@pytest.mark.parametrize(("name", "options"), [("cpu_library", ()), ("cpu_library_aarch64", AARCH64)])
def test_the_library_for_the_cpu_is_small_and_needs_no_other(name: str, options: tuple[str, ...]) -> None:
    need("cmake", "c++", "readelf", *([CROSS] if options else []))
    folder = configured_and_built(HERE.parents[1] / "plugins", name, ("-DSEQEXPORT_CUDA=OFF", *options))
    if missing := json.loads((folder / "found.json").read_text())["onnxruntime_missing"]:
        leave_out(f"tests of libseqexport_ort.so left out: {missing}")
    file = folder / "lib" / library.FILES["onnxruntime"]
    assert file.stat().st_size < 3_000_000
    needed = [line.rsplit("[", 1)[1].rstrip("]") for line in check("readelf", "-d", file) if "(NEEDED)" in line]
    assert {each.split(".so")[0] for each in needed} <= NEEDED
    exported = [line.split() for line in check("readelf", "--dyn-syms", "--wide", file)]
    assert [w[-1] for w in exported if w[3:5] == ["FUNC", "GLOBAL"] and w[6] != "UND"] == ["RegisterCustomOps"]
