"""Plans of cuBLASLt: none is made while a graph is captured, and a bounded number is kept."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from seqexport.plugins import toolchain
from tests.conftest import leave_out

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "plugins" / "kernels"


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_plans_are_kept_and_none_is_made_in_a_capture(tmp_path: Path, sanitizer: str) -> None:
    nvcc = toolchain.find_nvcc().path
    if nvcc is None:
        leave_out("tests of cuBLASLt's plans left out: no nvcc")
    host = f"-fsanitize={sanitizer},-fno-sanitize-recover=all,-g1,-pthread,-fPIC"
    compiler = [nvcc, "-std=c++17", "-O1", "-cudart", "none", "-Xcompiler", host]
    stub, program = tmp_path / "libcublasLt.so.13", tmp_path / "cases"
    sources = [HERE / "cublaslt_cases.cpp", KERNELS / "linear_cublas.cpp", KERNELS / "cublaslt.cpp"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    for command in (
        [*compiler, "-shared", HERE / "cublaslt_stub.cpp", "-o", stub],
        [*compiler, "-I", KERNELS, *sources, "-o", program, "-ldl"],
        [program, stub],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "all cases ran\n"
