"""Every kernel compiles for the GPUs of NVIDIA's boards; unoptimised, which checks the same in much less time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from seqexport.plugins import toolchain
from tests.conftest import leave_out, leave_out_of_short_runs

KERNELS = Path(__file__).parents[2] / "plugins" / "kernels"
BOARDS = {"72": "Xavier", "87": "Orin", "110": "Thor"}
SLOW = {"selective_scan", "ssd_scan"}
"""Two thirds of the time, for one board: what is another from sm_90 on is in launch.cuh, which all kernels include."""


@pytest.mark.parametrize("architecture", BOARDS)
def test_the_kernels_compile(architecture: str, tmp_path: Path) -> None:
    leave_out_of_short_runs("kernels of boards' GPUs")
    nvcc = toolchain.find_nvcc()
    board = f"kernels of sm_{architecture} ({BOARDS[architecture]}) left out: "
    if nvcc.path is None:
        leave_out(f"{board}no nvcc")
    if architecture not in toolchain.nvcc_architectures(nvcc.path):
        leave_out(f"{board}nvcc {nvcc.version} does not compile for it")
    sources = [file for file in sorted(KERNELS.glob("*.cu")) if architecture != "110" or file.stem not in SLOW]
    assert len(sources) > 10
    plain = ["-Xcicc", "-O0", "-Xptxas", "-O0", "--threads", "2"]
    command = [nvcc.path, "-std=c++17", f"-arch=sm_{architecture}", "-cubin", *plain, "-I", KERNELS, *sources]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {file.stem for file in tmp_path.glob("*.cubin")} == {file.stem for file in sources}
