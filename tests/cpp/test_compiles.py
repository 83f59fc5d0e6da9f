"""What sees TensorRT's headers, against those of versions that cannot be linked here: builder and runtime."""

from __future__ import annotations

import json
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import leave_out
from tests.cpp.conftest import RTX_HEADERS, headers
from tests.cpp.embedded import SOURCES, WORK
from tests.tensorrt.compiler import headers as runtime_headers


def commands(folder: Path) -> list[dict[str, Any]]:
    """How the sources in a folder are compiled."""
    every = json.loads((WORK / "rtx" / "compile_commands.json").read_text())
    return [command for command in every if Path(command["file"]).parent == folder]


def check(found: list[dict[str, Any]], include: Path) -> None:
    def compiled(command: dict[str, Any]) -> str:
        words = command["command"].replace(str(headers(RTX_HEADERS)), str(include))
        kept = [word for word in shlex.split(words) if word != "-DSEQEXPORT_TENSORRT_RTX"]
        assert "-Werror" in kept
        done = subprocess.run([*kept, "-fsyntax-only"], cwd=command["directory"], capture_output=True, text=True)
        return done.stderr if done.returncode else ""

    with ThreadPoolExecutor(2) as pool:
        assert "".join(pool.map(compiled, found)) == ""


@pytest.mark.parametrize("version", ["8.5.2", "8.6.1"])
def test_the_builder_compiles_without_a_warning(version: str, executable: Path) -> None:
    folder = headers(version)
    if folder is None:
        leave_out(f"tests/cpp with TensorRT {version} left out: no cached headers of it with NvOnnxParser.h")
    found = commands(SOURCES / "builder")
    assert len(found) > 7
    check(found, folder)


@pytest.mark.parametrize("version", ["8.5.2", "8.6.0", "8.6.1", "10.3.0", "10.13.0", "11.1.0"])
def test_the_runtime_compiles_without_a_warning(version: str, executable: Path) -> None:
    folder = runtime_headers(version)
    if folder is None:
        leave_out(f"tests/cpp with TensorRT {version} left out: no cached headers of it")
    found = commands(SOURCES / "tensorrt") + commands(SOURCES / "runtime" / "trt")
    assert len(found) > 9
    check(found, folder)
