"""``doctor``, and tables on a narrow terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqexport.plugins import library
from seqexport.runtimes import cublas
from tests.cli.conftest import Run
from tests.cli.test_without_pytorch import without_pytorch


def test_doctor_says_what_works_and_what_does_not(run: Run) -> None:
    result = run("doctor")
    assert (result.code, result.err) == (0, "")
    assert "✓ │ ONNX Runtime on CPU" in result.out
    without = without_pytorch("doctor")
    assert (without.returncode, without.stderr) == (0, "")
    assert "not importable: No module named 'torch'" in without.stdout


@pytest.mark.parametrize("command", [["doctor"], ["plugins", "list"]], ids=" ".join)
def test_words_are_whole_on_a_narrow_terminal(run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    words = {word for word in run(*command).out.split() if word.isascii()}
    for width in (60, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        shown = run(*command).out
        assert max(map(len, shown.splitlines())) <= width
        assert [word for word in words if len(word) < width - 14 and word not in shown] == []


@pytest.mark.parametrize(
    ("place", "row"),
    [
        ("/pip/libcublasLt.so.13", ["✓", "cuBLASLt", "/pip/libcublasLt.so.13", ""]),
        (None, ["–", "cuBLASLt", "not on the library path or in pip's packages", cublas.INSTALL]),
    ],
    ids=["found", "missing"],
)
def test_doctor_says_where_cublaslt_is(
    run: Run, monkeypatch: pytest.MonkeyPatch, place: str | None, row: list[str]
) -> None:
    asked: list[int] = []
    built = library.Built("tensorrt", Path("lib.so"), "0", "0.1.0", {"cuda": "12.2.0"})
    monkeypatch.setattr(library, "built", lambda: {"tensorrt": built})
    monkeypatch.setattr(cublas, "load", lambda major: asked.append(major) or place)
    monkeypatch.setenv("COLUMNS", "400")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run("doctor").out.splitlines()]
    assert row in rows
    assert asked == [12]
