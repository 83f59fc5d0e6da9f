"""What a measurement ran on."""

from __future__ import annotations

import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from seqexport.plugins.cores import usable_cores
from seqexport.plugins.errors import UserError
from seqexport.runtimes.manifest import Record
from seqexport.runtimes.nvidia import gpus

PACKAGES = ("seqexport", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy")


class Machine(Record, frozen=True):
    """``cores`` are those this process may use; ``memory_bytes`` the machine's; ``gpu`` its first; ``date`` is UTC."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]
    date: str
    command: str
    gpu: str | None = None


def this_machine() -> Machine:
    return Machine(
        processor=_processor(),
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions={name: found for name in PACKAGES if (found := _version(name))},
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        gpu=_gpu(),
    )


def _processor() -> str:
    """The name on the box: Linux tells it in /proc, a Jetson in the device tree."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    try:
        return Path("/proc/device-tree/model").read_text(errors="replace").strip("\0\n ")
    except OSError:
        return platform.processor() or platform.machine()


def _gpu() -> str | None:
    try:
        return gpus()[0][0]
    except UserError:
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
