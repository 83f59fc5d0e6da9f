"""What nvidia-smi says, or does not, is read in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqexport.plugins.errors import UserError
from seqexport.runtimes.machine import this_machine
from seqexport.runtimes.nvidia import gpus


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program, which each test writes."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    file = tmp_path / "nvidia-smi"
    file.touch(0o755)
    return file


def test_a_line_for_each_gpu(smi: Path) -> None:
    smi.write_text("#!/bin/sh\necho \"$@\" > $0.asked; echo 'NVIDIA A, B, 9.0, 580.1'; echo 'Other, 8.7, 580.1'\n")
    assert gpus("compute_cap", "driver_version") == [("NVIDIA A, B", "9.0", "580.1"), ("Other", "8.7", "580.1")]
    asked = "--query-gpu=name,compute_cap,driver_version --format=csv,noheader\n"
    assert smi.with_suffix(".asked").read_text() == asked
    smi.write_text("#!/bin/sh\necho 'NVIDIA A, B'\n")
    assert gpus() == [("NVIDIA A, B",)]
    assert this_machine().gpu == "NVIDIA A, B"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("#!/bin/sh\necho 'No devices were found'\nexit 6\n", "nvidia-smi finds no GPU: No devices were found"),
        ("#!/bin/sh\necho 'a driver that' >&2; echo 'does not match' >&2; exit 18\n", "a driver that does not match"),
        ("#!/bin/sh\n", "nvidia-smi finds no GPU: no output"),
        ("#!/nowhere/sh\n", "nvidia-smi does not run: .*No such file"),
        (None, "no nvidia-smi on PATH; use a machine with an NVIDIA GPU and its driver"),
    ],
)
def test_what_is_wrong_is_one_line(smi: Path, program: str | None, said: str) -> None:
    smi.write_text(program or "")
    if program is None:
        smi.unlink()
    with pytest.raises(UserError, match=said) as error:
        gpus()
    assert "\n" not in str(error.value)
    assert this_machine().gpu is None


def test_a_driver_that_does_not_answer_is_given_up(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqexport.runtimes.nvidia.SECONDS", 0.2)
    smi.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(UserError, match=r"nvidia-smi does not run: .*timed out"):
        gpus()
