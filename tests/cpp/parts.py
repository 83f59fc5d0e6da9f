"""Programs on a few of the library's sources, compiled by themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import leave_out
from tests.cpp.embedded import SOURCES, run

SANITIZED = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def compiled(made: Path, compiler: str, *words: str | Path) -> Path:
    """``made``, from sources and flags; paths are relative to runtimes/cpp."""
    if shutil.which(compiler) is None:
        leave_out(f"parts of libseqexport compiled with {compiler} left out: it is not here")
    warned = ("-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Icommon", "-Iruntime")
    done = run(compiler, *warned, *words, "-o", made, cwd=SOURCES)
    assert done.returncode == 0, done.stderr
    return made
