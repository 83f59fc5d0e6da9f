"""The program that times C++ beside Python; which is faster, no test says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from seqexport.runtimes.bundle import Bundle
from tests.cpp.embedded import Installed

PROGRAM = [sys.executable, "-m", "seqexport.runtimes.benchmarks.cpp_speed"]


def test_both_are_timed(shipped_package: Installed, mamba: Bundle, tmp_path: Path) -> None:
    bench, file = shipped_package.prefix / "bin" / "seqexport-bench", tmp_path / "speed.json"
    sizes = ["--prompt", "5", "--iterations", "2", "--rounds", "2", "--threads", "1"]
    command = [*PROGRAM, mamba.path, "--bench", bench, *sizes, "-o", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Python / C++" in done.stdout
    record = json.loads(file.read_text())
    assert record["setting"] == {"prompt": 5, "iterations": 2, "threads": 1, "rounds": 2}
    (row,) = record["results"]
    assert row["bundle"].startswith("mamba, ") and len(row["rounds"]) == 2
    for side in ("cpp", "python"):
        assert row["runtime"][side].startswith("ONNX Runtime ")
        assert all(row[side][time] == min(each[side][time] for each in row["rounds"]) > 0 for time in row[side])


def test_without_the_program(mamba: Bundle, tmp_path: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, mamba.path, "--bench", tmp_path / "none"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "none: no such file" in done.stderr
