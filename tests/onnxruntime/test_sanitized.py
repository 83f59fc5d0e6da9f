"""The op library's graphs under AddressSanitizer and UBSan: the tests of its ops, in a process that runs under both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from seqexport.plugins import toolchain
from tests.conftest import leave_out, leave_out_of_short_runs
from tests.onnxruntime.cxx import headers

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "sanitized"
WHAT = "the op library's graphs under sanitizers"
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -g1"
GRAPHS = [f"tests/onnxruntime/test_{name}.py" for name in ("ops", "extremes", "windows")]

BUILD = """
import sys
from dataclasses import replace
from pathlib import Path
from seqexport.plugins.build import Build, Options
from seqexport.plugins.toolchain import find_toolchain

tools = find_toolchain()
without_cuda = replace(tools, nvcc=replace(tools.nvcc, path=None))
work = Build(Options(onnxruntime_include=Path(sys.argv[1]), output=Path(sys.argv[2])), without_cuda)
with work.locked():
    found = work.configure()
    work.compile(lambda share, what: None)
    work.install(found)
"""


def test_no_graph_reads_or_writes_out_of_bounds() -> None:
    leave_out_of_short_runs(WHAT)
    compiler = toolchain.find_toolchain().cxx.path
    if compiler is None:
        leave_out(f"{WHAT} left out: no C++ compiler")
    include, folder = headers(WHAT), WORK / "plugins"
    run([sys.executable, "-c", BUILD, str(include), str(folder)], CXXFLAGS=FLAGS, XDG_CACHE_HOME=str(WORK))
    run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", "not cuda", *GRAPHS],
        LD_PRELOAD=" ".join(_runtime(compiler, name) for name in ("libasan.so", "libubsan.so")),
        ASAN_OPTIONS="detect_leaks=0",  # the interpreter's
        SEQEXPORT_TEST_PLUGINS=str(folder),
    )


def run(command: list[str], **env: str) -> None:
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]


def _runtime(compiler: Path, name: str) -> str:
    found = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    if not Path(found.strip()).is_absolute():
        leave_out(f"{WHAT} left out: the C++ compiler has no {name}")
    return found.strip()
