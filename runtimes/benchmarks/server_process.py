"""``seqexport serve`` as users start it: a process of its own, whose memory and time can be told from the client's."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import psutil

from seqexport.plugins.errors import UserError

PORT = re.compile(r"http://127\.0\.0\.1:(\d+)")
READY_SECONDS, STOP_SECONDS = 120.0, 90.0


class ServerProcess:
    """One that is ready.

    Attributes:
        port: on 127.0.0.1.
        process: for its memory, and its time.
    """

    def __init__(self, started: subprocess.Popen[str], log: IO[bytes], port: int) -> None:
        self.port, self.process = port, psutil.Process(started.pid)
        self._log = log

    @property
    def rss(self) -> int:
        """Bytes of its resident memory."""
        return int(self.process.memory_info().rss)

    @property
    def cpu_seconds(self) -> float:
        """That all of its threads have run so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def faults(self) -> list[str]:
        """Lines of its log that tell of an error."""
        return _faults(self._log)


@contextmanager
def server_process(bundle: Path, *options: str) -> Iterator[ServerProcess]:
    """Serve a bundle on a free port until the end of the ``with`` statement, which drains it.

    Args:
        options: of ``seqexport serve``, but for the port.

    Raises:
        UserError: it ended before it was ready, or did not end when it was told to.
    """
    command = [sys.executable, "-m", "seqexport", "serve", str(bundle), "--port", "0", *options]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as started,
    ):
        try:
            yield ServerProcess(started, log, _port_when_ready(started, log))
            started.terminate()
            started.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"the server did not end within {STOP_SECONDS:g} s of SIGTERM") from error
        finally:
            started.kill()


def _port_when_ready(started: subprocess.Popen[str], log: IO[bytes]) -> int:
    assert started.stdout is not None
    if (said := PORT.search(started.stdout.readline())) is None:
        raise _ended(log)
    deadline = time.monotonic() + READY_SECONDS
    while started.poll() is None and time.monotonic() < deadline:
        if _is_ready(port := int(said[1])):
            return port
        time.sleep(0.05)
    raise _ended(log)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _ended(log: IO[bytes]) -> UserError:
    lines = _lines(log)
    return UserError(f"the server was not ready: {lines[-1] if lines else 'it said nothing'}")


def _faults(log: IO[bytes]) -> list[str]:
    return [line for line in _lines(log) if not line.startswith("{") or msgspec.json.decode(line)["level"] == "error"]


def _lines(log: IO[bytes]) -> list[str]:
    log.seek(0)
    return log.read().decode(errors="replace").splitlines()
