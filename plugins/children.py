"""Child processes that do not outlive this one, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

GUARDED = 'exec 3<&0 </dev/null; (cat <&3; kill -KILL 0) >/dev/null 2>&1 & exec "$@" 3<&-'
"""A shell that becomes a command, beside which a second one ends the whole group when nobody holds its input's other
end: this process does, and the system closes it even for one that is killed."""


@contextmanager
def started(command: Sequence[str], inherits: int = -1) -> Iterator[subprocess.Popen[str]]:
    """A process whose output, and errors among it, can be read; it and all that it starts have ended after the block.

    Args:
        inherits: a descriptor, as of a lock, that each of them holds until it ends; -1: none.
    """
    with subprocess.Popen(
        ["sh", "-c", GUARDED, "sh", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        pass_fds=[inherits] if inherits >= 0 else [],
        env={**os.environ, "LC_ALL": "C"},
    ) as process:
        try:
            yield process
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
