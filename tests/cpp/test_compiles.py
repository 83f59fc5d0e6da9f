"""The builder's sources against the headers of a TensorRT that cannot be linked here."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import leave_out
from tests.cpp.conftest import RTX_HEADERS, headers
from tests.cpp.embedded import WORK


@pytest.mark.parametrize("version", ["8.5.2", "8.6.1"])
def test_compiles_without_a_warning(version: str, executable: Path) -> None:
    folder = headers(version)
    if folder is None:
        leave_out(f"tests/cpp with TensorRT {version} left out: no cached headers of it with NvOnnxParser.h")
    commands = json.loads((WORK / "rtx" / "compile_commands.json").read_text())
    assert len(commands) > 10
    for command in commands:
        words = command["command"].replace(str(headers(RTX_HEADERS)), str(folder))
        kept = [word for word in shlex.split(words) if word != "-DSEQEXPORT_TENSORRT_RTX"]
        assert "-Werror" in kept
        done = subprocess.run([*kept, "-fsyntax-only"], cwd=command["directory"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
