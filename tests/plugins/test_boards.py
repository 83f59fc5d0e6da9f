"""Every kernel compiles for the GPUs of NVIDIA's boards; unoptimised, which checks the same in much less time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from seqexport.plugins import toolchain
from tests import groups
from tests.conftest import leave_out

KERNELS = Path(__file__).parents[2] / "plugins" / "kernels"
BOARDS = {"72": "Xavier", "87": "Orin", "110": "Thor"}
STANDS_IN = {"72": "75"}
"""CUDA 13 compiles for nothing older; the sources tell the two from sm_80, and not from each other."""

SLOW = {"selective_scan": "87", "ssd_scan": "72"}
"""Two thirds of the time, so for one board in short runs: SsdScan has code of its own before sm_80. What else differs
between architectures is in headers that all kernels include."""


@pytest.mark.parametrize("architecture", BOARDS)
def test_the_kernels_compile(architecture: str, tmp_path: Path) -> None:
    nvcc = toolchain.find_nvcc()
    board = f"kernels of sm_{architecture} ({BOARDS[architecture]}) left out: "
    if nvcc.path is None:
        leave_out(f"{board}no nvcc")
    known = toolchain.nvcc_architectures(nvcc.path)
    compiled_for = architecture if architecture in known else STANDS_IN.get(architecture)
    if compiled_for not in known:
        leave_out(f"{board}nvcc {nvcc.version} does not compile for it")
    every = sorted(KERNELS.glob("*.cu"))
    sources = [file for file in every if groups.ALL or SLOW.get(file.stem, architecture) == architecture]
    assert len(sources) > 10
    plain = ["-Xcicc", "-O0", "-Xptxas", "-O0", "--threads", "2"]
    command = [nvcc.path, "-std=c++17", f"-arch=sm_{compiled_for}", "-cubin", *plain, "-I", KERNELS, *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file.stem for file in tmp_path.glob("*.cubin")} == {file.stem for file in sources}
