"""Whatever a command meets is one line, and nothing that a terminal would obey is printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqexport.exporter import cli
from seqexport.runtimes.bundle import MANIFEST
from tests.attacks.bundles import RECORD
from tests.cli.conftest import Run
from tests.cli.test_bundle_commands import edit_manifest


class PanicException(BaseException):
    """As PyO3 raises where Rust panics: no Exception."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PanicException("index out of bounds"), "unforeseen PanicException: index out of bounds; for the place in the"),
        (KeyError("x\n\x1b[2Jy"), "unforeseen KeyError: 'x\\n\\x1b[2Jy'; for the place in the program set SEQEXPORT"),
        (MemoryError(), "out of memory; give less to do at a time"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied; for the place in the program"),
        (RecursionError("too deep"), "unforeseen RecursionError: too deep"),
    ],
)
def test_what_nobody_has_foreseen_is_one_line(
    error: BaseException, told: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**options: object) -> None:
        raise error

    monkeypatch.setattr(cli, "cli", fails)
    ended = run("inspect", "x")
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert told in ended.err
    monkeypatch.setenv(cli.TRACEBACK, "1")
    assert "Traceback (most recent call last)" in run("inspect", "x").err


def test_a_full_device_is_told(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "seqexport", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert (ended.returncode, ended.stderr) == (
        2,
        "error: standard output: cannot be written (No space left on device)\n",
    )


def test_names_of_a_bundle_do_not_reach_the_terminal_as_they_are(run: Run, shipped: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    for file in shipped.iterdir():
        (folder / file.name).hardlink_to(file)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_text(text)
    edit_manifest(folder, architecture="[/x]\x1b[2J\x07\x9b31m", target="portable")
    record = RECORD | {"gpu": "\x1b]0;title\x07", "date": "\x9b31m[/x]"}
    (folder / "engines").mkdir()
    (folder / "engines" / "x.json").write_text(json.dumps(record))
    shown = run("inspect", folder).out
    assert "[/x]\N{REPLACEMENT CHARACTER}[2J" in shown
    assert "\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}, TensorRT 8.6.0" in shown
    (folder / "engines" / "x.json").write_text(json.dumps(record | {"tensorrt": "\x1b[31m"}))
    refused = run("inspect", folder)
    assert "no engine's record: Invalid version: '\\x1b[31m'" in refused.refusal
    for said in (shown, refused.err, run("inspect", folder, "--json").out):
        assert not set(said) & set("\x1b\x07\x9b")


@pytest.mark.parametrize("threads", [0, 100_000, 10**12])
def test_threads_that_no_machine_has(run: Run, shipped: Path, threads: int) -> None:
    refused = run("verify", shipped, "--threads", threads)
    assert refused.code == 2
    assert "threads" in refused.err and str(threads) in refused.err


def test_a_seed_below_0(run: Run, shipped: Path) -> None:
    assert "--seed -1: expected 0 to" in run("generate", shipped, "--prompt", "x", "--seed", "-1").refusal


@pytest.mark.parametrize("command", [("inspect",), ("verify",), ("onnx", "-o")])
def test_a_path_without_end(run: Run, command: tuple[str, ...]) -> None:
    assert "File name too long" in run(*command, "n" * 300).refusal


@pytest.mark.parametrize("command", [("onnx", "--model", "x"), ("onnx", "--arch", "mamba"), ("inspect", "../bundle")])
def test_a_working_folder_that_is_gone(run: Run, command: tuple[str, ...], tmp_path: Path) -> None:
    before = Path.cwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    try:
        assert "the working folder is not there any more" in run(*command).refusal
    finally:
        os.chdir(before)
