"""A program's static session outlives the library's statics, and still runs: no op is destroyed before it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seqexport.plugins import toolchain
from tests.conftest import leave_out
from tests.onnxruntime.cxx import headers_and_library
from tests.onnxruntime.library_ops import one_node

SOURCE = Path(__file__).with_name("global_session.cpp")
Y = "0 4 1 9"
"""Of x [[1, 2], [3, 4]] and weight [[1, 0], [0.5, 2]]."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The program and its model, as a command takes them."""
    folder = tmp_path_factory.mktemp("global_session")
    include, library = headers_and_library(folder, "tests of a global session")
    compiler = toolchain.find_toolchain().cxx.path
    if compiler is None:
        leave_out("tests of a global session left out: no C++ compiler")
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", include, f"-Wl,-rpath,{folder}"]
    built = folder / "global_session"
    command = [compiler, *options, SOURCE, library, "-o", built]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    model = folder / "conv.onnx"
    given = (("x", torch.float32, 3), ("weight", torch.float32, 2), ("past", torch.float32, 3))
    model.write_bytes(one_node("CausalConv1d", given, {}))
    return [built, model]


def test_it_runs_when_the_library_is_torn_down(program: list[Path], native_library: Callable[[str], Path]) -> None:
    built, model = program
    overwritten = {**os.environ, "MALLOC_PERTURB_": "165"}  # glibc: memory that is freed never looks as it was
    command = [built, native_library("onnxruntime"), model]
    done = subprocess.run(command, capture_output=True, text=True, env=overwritten)
    assert (done.returncode, done.stdout.splitlines()) == (0, [Y, Y]), done.stderr
