"""What the plugin sources and their harness are compiled with here."""

from __future__ import annotations

import subprocess
from pathlib import Path

from seqexport.plugins import folders, toolchain
from tests.conftest import leave_out

ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "plugins" / "tensorrt"
ADAPTERS = [file for file in sorted(SOURCES.glob("*.cpp")) if '"tensorrt.h"' in file.read_text() or file.stem == "host"]
"""The sources that see TensorRT's headers."""

VERSIONS = ("8.5.2", "8.6.0", "8.6.1", "10.3.0", "10.13.0", "11.1.0")


def headers(version: str) -> Path | None:
    """The cached headers of a TensorRT."""
    folder = folders.cache() / "seqexport" / "headers" / f"tensorrt-{version}" / "include"
    return folder if (folder / "NvInferVersion.h").is_file() else None


def compile_cleanly(version: str, *arguments: object) -> None:
    """Runs the compiler with the headers of a TensorRT, every warning an error."""
    folder, nvcc = headers(version), toolchain.find_nvcc().path
    if folder is None or nvcc is None:
        what = f"no cached headers of TensorRT {version}" if nvcc else "no nvcc"
        leave_out(f"tests/tensorrt with TensorRT {version} left out: {what}")
    flags = ["-std=c++17", "-Xcompiler", "-Wall,-Wextra,-Werror,-rdynamic", "-isystem", folder]
    command = [str(word) for word in (nvcc, *flags, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
