"""Products of warpgroups run side by side. Where ptxas cannot see that they may, it has each wait, and says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from seqexport.plugins import toolchain
from tests.conftest import leave_out

KERNELS = Path(__file__).parents[2] / "plugins" / "kernels"
SOURCE = """
#include "ssd_scan_tile_kernels.cuh"
namespace seqexport {{
using Traits = SsdWgmmaTraits<{dtype}, {states}, {units}>;
#define WITH SsdScanParams, SsdSegments, const __grid_constant__ Traits::Access
template __global__ void ssd_tile_kernel<Traits, false>(WITH);
template __global__ void ssd_tile_kernel<Traits, true>(WITH);
}}
"""
SERIALIZED = "C75"
"""Of ptxas' notes C7510 and on."""


@pytest.mark.parametrize(
    ("dtype", "states", "units"),
    [("Bfloat16", 128, 3), ("Bfloat16", 128, 2), ("__half", 128, 2), ("Bfloat16", 64, 3), ("__half", 64, 3)],
)
def test_no_product_waits_for_the_one_before(tmp_path: Path, dtype: str, states: int, units: int) -> None:
    nvcc = toolchain.find_nvcc()
    if nvcc.path is None or Version(nvcc.version) < Version("12"):
        leave_out("the products of warpgroups left out: no nvcc from 12 on, which compiles them for sm_90a")
    source = tmp_path / "kernels.cu"
    source.write_text(SOURCE.format(dtype=dtype, states=states, units=units))
    target = "-gencode=arch=compute_90a,code=sm_90a"
    command = [
        nvcc.path,
        "-std=c++17",
        target,
        "-I",
        KERNELS,
        "-Xptxas",
        "-v",
        "-cubin",
        source,
        "-o",
        tmp_path / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert SERIALIZED not in done.stderr, done.stderr
    assert "Used" in done.stderr, "ptxas says nothing of registers: are its notes written?"
