"""A toolchain that stands in for CMake and the compilers: it takes a moment, and gives a library of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from seqexport.plugins.build import Build, Options
from seqexport.plugins.library import Built
from seqexport.plugins.toolchain import Tool, Toolchain

CMAKE = """#!/bin/sh
case "$1" in
--build)
    echo '[1/2] compiling'
    mkdir -p "$2/lib"
    sh -c 'echo $$ > "$0/compiler.pid"; exec sleep "${SECONDS_TO_COMPILE:-0.2}"' "$2"
    date +%N > "$2/lib/libseqexport_ort.so"
    rm "$2/compiler.pid" ;;
-S)
    cat > "$4/found.json" <<END
{"libraries": "onnxruntime", "cuda": "", "architectures": "", "tensorrt": "", "tensorrt_include": "",
 "tensorrt_from": "", "tensorrt_missing": "", "onnxruntime": "1.18.0", "onnxruntime_include": "",
 "onnxruntime_from": "", "onnxruntime_missing": ""}
END
esac
"""


def toolchain(folder: Path) -> Toolchain:
    cmake = folder / "cmake"
    cmake.write_text(CMAKE)
    cmake.chmod(0o755)
    none = Tool("nvcc", None, "", "")
    return Toolchain(Tool("cmake", cmake, "3", ""), Tool("ninja", cmake, "1", ""), Tool("C++", cmake, "1", ""), none)


def build(folder: str | Path) -> list[Built]:
    """Builds into ``folder``/plugins."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    work = Build(Options(output=folder / "plugins"), toolchain(folder))
    with work.locked():
        print(work.folder, flush=True)
        found = work.configure()
        work.compile(lambda share, what: None)
        return work.install(found)


if __name__ == "__main__":
    build(sys.argv[1])
