"""An export that fails or is interrupted leaves nothing behind, and an old bundle as it was."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from seqexport.exporter import pipeline, writing
from tests.cli.conftest import Result, Run, contents
from tests.conftest import Exported


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False) if os.geteuid() == 0 else None
    if mounted is None or mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_file_that_cannot_grow_leaves_nothing(run: Run, llama: Path, work: Path, exported: Exported) -> None:
    largest = max(file.stat().st_size for file in exported("llama", target="portable", logits="last").path.iterdir())
    for size in (1000, largest // 2, largest - 1):
        with file_size_limit(size):
            result = run("onnx", "--model", llama, "-o", "new/out")
        assert result.refusal.startswith("cannot write new/out: "), size
        assert result.refusal.endswith("; nothing was left behind")
        assert contents(work) == {}


@pytest.mark.parametrize("kilobytes", [8, 80, 120, 200])
def test_a_full_disk_leaves_nothing(run: Run, llama: Path, work: Path, kilobytes: int, traced_once: None) -> None:
    with small_disk(work / "disk", kilobytes * 1024):
        shutil.copy(llama / "config.json", "disk/mine.json")
        result = run("onnx", "--model", llama, "-o", "disk/out", "--no-verify")
        left = os.listdir("disk")
    if result.code == 2:
        assert result.refusal == "cannot write disk/out: No space left on device; nothing was left behind"
        assert left == ["mine.json"]
    else:
        assert kilobytes == 200


def test_a_full_disk_leaves_the_old_bundle(run: Run, llama: Path, work: Path, traced_once: None) -> None:
    assert run("onnx", "--model", llama, "-o", "out").code == 0
    before = contents(work)
    with file_size_limit(10_000):
        result = run("onnx", "--model", llama, "-o", "out", "--force")
    assert "cannot write out: File too large" in result.refusal
    assert contents(work) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["load", "trace", "_record", "write_manifest"])
def test_a_signal_anywhere_leaves_nothing(
    run: Run, llama: Path, work: Path, monkeypatch: pytest.MonkeyPatch, where: str, number: int, traced_once: None
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr(pipeline if hasattr(pipeline, where) else writing, where, interrupted)
    assert_interrupted(run("onnx", "--model", llama, "-o", "new/out"))
    assert contents(work) == {}


def assert_interrupted(result: Result) -> None:
    assert result.code == 130
    assert result.err.strip() == "error: interrupted; nothing was left half written"


STALLED = """
import atexit, time
from seqexport.exporter import cli, pipeline
real = pipeline.write_reference
def stall():
    print("writing", flush=True)
    for _ in range(600):  # a signal that lands just before a sleep does not end it
        time.sleep(0.1)
pipeline.write_reference = lambda *args: (real(*args), stall())
atexit.register(time.sleep, 1)
cli.main()
"""


@pytest.mark.parametrize(("seen", "delay"), [("load", 0.8), ("writing", 0.0)], ids=["trace", "write"])
def test_ctrl_c_leaves_nothing(seen: str, delay: float, llama: Path, work: Path) -> None:
    command = [sys.executable, "-c", STALLED, "onnx", "--model", str(llama), "-o", "new/out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(seen in line for line in process.stdout)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert_interrupted(Result(process.returncode, out, err))
    assert contents(work) == {}


def test_ctrl_c_with_nobody_left_to_read(llama: Path, work: Path) -> None:
    command = [sys.executable, "-c", STALLED, "onnx", "--model", str(llama), "-o", "new/out"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any("writing" in line for line in process.stdout)
        process.stdout.close()
        process.stderr.close()
        process.send_signal(signal.SIGINT)
    assert process.returncode == 1
    assert contents(work) == {}
