"""The kernels as other devices and drivers run them: in less shared memory, and without overlapping launches.

The limits are read once a process, so each is a pytest of its own over the tests that could meet it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SM_75, SM_86 = 64 << 10, 99 << 10
"""Bytes of shared memory that a block may have on sm_75, and on sm_86, 89 and 120; sm_80 and 87 have 163 KB."""

WIDE = "test_shapes and (256 or 128)"


@pytest.mark.parametrize("limit", [SM_75, SM_86, 163 << 10])
@pytest.mark.parametrize(
    ("file", "select"),
    [
        ("test_selective_scan.py", f"{WIDE} or test_every_plan or test_chunked"),
        ("test_ssd_scan.py", f"{WIDE} or test_chunked"),
        ("test_causal_attention.py", f"{WIDE} or test_window or test_peaked or test_chunked"),
    ],
)
def test_less_shared_memory(kernels: object, file: str, select: str, limit: int) -> None:
    _run(file, select, SEQEXPORT_SHARED_MEMORY=str(limit))


@pytest.mark.parametrize(
    "file",
    ["test_selective_scan.py", "test_ssd_scan.py", "test_causal_attention.py", "test_linear.py", "test_experts.py"],
)
def test_without_overlapping_launches(kernels: object, file: str) -> None:
    _run(file, "test_graph_capture or test_ragged or test_groups", SEQEXPORT_PDL="0")


def _run(file: str, select: str, **environment: str) -> None:
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:xdist"]
    command = [sys.executable, "-m", "pytest", str(HERE / file), "-k", select, *plain]
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, env={**outer, **environment}, cwd=HERE.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
