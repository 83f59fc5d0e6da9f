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
import traceback
from pathlib import Path
from typing import Any

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
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    worked, since = -1, time.monotonic()
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < since + asked["seconds"]:
        time.sleep(0.005)
        if (now := _worked(pid)) != worked:
            worked, since = now, time.monotonic()
    hung = ended[0] == 0
    if hung:
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    return {"code": os.waitstatus_to_exitcode(ended[1]), "hung": hung}


def _worked(pid: int) -> int:
    """Changes while a process computes, or waits for the processor: the machine may be busy with other things."""
    state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return time.monotonic_ns() if state == "R" else int(numbers[10]) + int(numbers[11])


def _command(asked: dict[str, Any]) -> None:
    """Become the program with the arguments; does not return."""
    for stream, name in ((0, os.devnull), (1, asked["stdout"]), (2, asked["stderr"])):
        os.dup2(os.open(name, os.O_RDWR | (os.O_CREAT if stream else 0)), stream)
    os.environ |= asked["environment"]
    os.chdir(asked["folder"])
    if asked["leave"]:
        Path(asked["folder"]).rmdir()
    _without_capabilities()
    resource.setrlimit(resource.RLIMIT_CPU, (asked["seconds"], asked["seconds"] + 5))
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + asked["memory"],) * 2)
    module, _, function = asked["program"].partition(":")
    sys.argv = ["seqexport", *asked["arguments"]]
    try:
        getattr(importlib.import_module(module), function)()
    except SystemExit as left:
        sys.stdout.flush()
        os._exit(left.code if isinstance(left.code, int) else 1)


def _without_capabilities() -> None:
    """Root, too, is held to the permissions of files."""
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)())


if __name__ == "__main__":
    main()
