"""Exports and builds of plugin libraries that are killed as whole processes, at random moments."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from seqexport.plugins import library
from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import open_bundle

EXPORT = "from seqexport.exporter.cli import main; main()"
BUILD = "import sys; from tests.plugins.stand_in import build; build(sys.argv[1])"


def kill_commands(end: float, chance: random.Random, folder: Path) -> list[str]:
    """A line for each kill, empty, and for each failure."""
    export = [EXPORT, "onnx", "--arch", "mamba", "--no-verify", "--force", "-o", str(folder / "export" / "out")]
    build = [BUILD, str(folder / "build")]
    lines = list[str]()
    took = {name: _seconds(command) for name, command in (("export", export), ("build", build))}
    for name in itertools.cycle(took):
        if time.monotonic() > end:
            return lines
        command = {"export": export, "build": build}[name]
        _killed(command, chance.uniform(0, 1.1 * took[name]))
        lines += ["", *_seen(name, folder)]
        if chance.random() < 0.2:
            _seconds(command)
            lines += _litter(folder)
    return lines


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _seconds(command: Sequence[str]) -> float:
    began = time.monotonic()
    if _started(command).wait():
        raise RuntimeError(f"{command} does not run here")
    return time.monotonic() - began


def _killed(command: Sequence[str], after: float) -> None:
    with _started(command) as process:
        time.sleep(after)
        process.send_signal(signal.SIGKILL)


def _seen(name: str, folder: Path) -> Iterator[str]:
    os.environ["SEQEXPORT_PLUGINS"] = str(folder / "build" / "plugins")
    try:
        open_bundle(folder / "export" / "out") if name == "export" else library.require("onnxruntime")
    except UserError as error:
        yield f"{name} killed: {error}"


def _litter(folder: Path) -> Iterator[str]:
    for path in (folder / "export").iterdir():
        if path.name != "out":
            yield f"export: left {path.name}"
    names = [path.name for path in (folder / "build" / "plugins").iterdir()]
    if len(names) != 2:
        yield f"build: left {sorted(names)}"
