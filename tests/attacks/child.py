"""A process with everything imported that runs commands, each in a fork with limits of its own.

It is told one command a line, as JSON, and answers with how it ended.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

CPU_SECONDS, WALL_SECONDS = 10, 40
"""What works too long, and what waits; the machine may be busy with other things."""

CAPABILITIES_VERSION = 0x20080522


def main() -> None:
    """Import what is named on the command line, then serve standard input."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_forked(json.loads(line))) + "\n")
        sys.stdout.flush()


def _forked(asked: dict[str, Any]) -> dict[str, Any]:
    pid = os.fork()
    if pid == 0:
        try:
            _command(asked)
        finally:
            os._exit(70)
    deadline = time.monotonic() + WALL_SECONDS
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.005)
    hung = ended[0] == 0
    if hung:
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(ended[1]), "hung": hung}


def _command(asked: dict[str, Any]) -> None:
    """Become ``seqexport`` with the arguments; never returns."""
    for stream, name in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        os.dup2(os.open(name, os.O_RDWR | (os.O_CREAT if stream else 0)), stream)
    os.environ |= asked["environment"]
    os.chdir(asked["folder"])
    if asked["leave"]:
        Path(asked["folder"]).rmdir()
    _without_capabilities()
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + asked["memory"],) * 2)
    from seqexport.exporter.cli import main as seqexport

    sys.argv = ["seqexport", *asked["arguments"]]
    try:
        seqexport()
    except SystemExit as left:
        sys.stdout.flush()
        os._exit(left.code if isinstance(left.code, int) else 1)


def _without_capabilities() -> None:
    """Root, too, is held to the permissions of files."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


if __name__ == "__main__":
    main()
