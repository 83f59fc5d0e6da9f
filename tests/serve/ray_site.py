"""The example of Ray Serve as users start it, in a process and a temporary folder of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

from seqexport.runtimes.serve.server import listen
from tests.conftest import leave_out
from tests.serve.served import wait_until

PYTHON = "SEQEXPORT_RAY"
EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_serve"
PATIENCE = 600
"""Seconds for what Ray does: it starts in some fifteen where nothing else runs."""

ATTEMPTS = 4
PATIENT = (
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S",
    "RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S",
)
"""A busy machine is no dead proxy, nor a replica that has no room."""


def ray_python() -> str:
    """The Python that has Ray."""
    python = os.environ.get(PYTHON, "")
    if not python or subprocess.run([python, "-c", "import ray.serve"], capture_output=True).returncode:
        leave_out(f"tests of Ray Serve left out: {PYTHON} names no Python that has ray[serve]")
    return python


class Site:
    """Two replicas that run.

    Attributes:
        model: by which clients ask for it.
        sessions: the folder of sessions.
    """

    def __init__(self, url: str, model: str, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.url, self.model, self.sessions, self._process = url, model, folder / "sessions", process

    def new_session(self) -> str:
        answer = httpx.post(f"{self.url}/v1/sessions", timeout=PATIENCE)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def tokens(self, session: str) -> int:
        """That a session has."""
        return int(httpx.get(f"{self.url}/v1/sessions/{session}", timeout=PATIENCE).json()["tokens"])

    def replicas(self) -> list[psutil.Process]:
        """Those that have begun to serve; Ray calls them otherwise before."""
        return [each for each in _below(self._process) if _name(each).startswith("ray::ServeReplica")]

    def held(self, replica: psutil.Process) -> set[str]:
        """The sessions that a replica goes on with at this moment."""
        locks = [Path(file.path) for file in replica.open_files()]
        return {file.stem for file in locks if file.suffix == ".lock" and file.parent == self.sessions}

    def stop(self) -> None:
        """As its user does; no process is left."""
        started = _below(self._process)
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(PATIENCE) == 0
        assert not psutil.wait_procs(started, timeout=60)[1]


def _below(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline()[:1])
    return ""


@contextmanager
def ray_site(bundle: Path, max_batch: int) -> Iterator[Site]:
    """Serves until the block ends; nothing of it is left then."""
    python = ray_python()
    folder = Path(tempfile.mkdtemp(prefix="ray")).resolve()  # short: Ray makes sockets below it
    with listen("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
    options = ["--session-dir", folder / "sessions", "--max-batch", str(max_batch), "--port", str(port)]
    own = {"RAY_TMPDIR": str(folder), "HOME": str(folder), "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    environment = os.environ | own | dict.fromkeys(PATIENT, str(PATIENCE))
    try:
        process = _started([python, EXAMPLE / "run.py", bundle, *options], folder, environment)
        try:
            site = Site(f"http://127.0.0.1:{port}", bundle.name, folder, process)
            yield site
            site.stop()
        finally:
            _kill(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _started(command: list[str | Path], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """The program once it is ready. Ray gives itself 30 s to start, which may be too few, and then is tried again."""
    for _ in range(ATTEMPTS):
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        try:
            if _is_ready(process, folder / "log"):
                return process
        except BaseException:
            _kill(process)
            raise
        said = (folder / "log").read_text()
        assert "timed out during startup" in said, said[-4000:]
    raise AssertionError(f"Ray did not start in {ATTEMPTS} attempts")


def _is_ready(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether it becomes so; not where it ends."""
    wait_until(lambda: "replicas at http" in log.read_text() or process.poll() is not None, PATIENCE)
    return process.poll() is None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It and all below it, where it still runs."""
    if process.poll() is None:
        for each in [*_below(process), psutil.Process(process.pid)]:
            with suppress(psutil.Error):
                each.kill()
        process.wait()
