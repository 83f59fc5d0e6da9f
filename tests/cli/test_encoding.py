"""Output that cannot encode a character, and arguments that are not UTF-8: replaced, never a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from seqexport.exporter.cli import main
from seqexport.runtimes.bundle import open_bundle
from seqexport.runtimes.encoding import readable, replace_unencodable
from tests.cli.conftest import Run

Printed = Callable[..., tuple[object, str, str]]
TEXT = "é🙂 the"
QUICK = ("--lengths", "4", "--steps", "1", "--repeats", "1")
BAD_ARGUMENT = os.fsdecode(b"caf\xe9")


@pytest.fixture(params=["ascii", "cp1252", "utf-8"])
def printed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, run: Run) -> Printed:
    """Runs ``seqexport`` with strict streams of an encoding: its exit code, and what came out of both."""

    def seqexport(*args: object) -> tuple[object, str, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=request.param, errors="strict") for _ in range(2)]
        monkeypatch.setattr("sys.argv", ["seqexport", *map(str, args)])
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            with pytest.raises(SystemExit) as exited:
                main()
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue() for stream in streams)  # type: ignore[attr-defined]
        encoding = "utf-8" if request.param == "ascii" else request.param  # click writes UTF-8 for ascii
        return exited.value.code, out.decode(encoding), err.decode(encoding)

    seqexport.encoding = request.param  # type: ignore[attr-defined]
    return seqexport


def encoding_of(printed: Printed) -> str:
    return str(printed.encoding)  # type: ignore[attr-defined]


def test_generate(printed: Printed, shipped: Path) -> None:
    shown = {"ascii": "?? the", "cp1252": "é? the", "utf-8": TEXT}[encoding_of(printed)]
    code, out, err = printed("generate", shipped, "--prompt", TEXT, "--max-new-tokens", 2)
    assert (code, err) == (0, "")
    assert out.startswith(shown)
    code, out, err = printed("generate", shipped, "--prompt", TEXT, "--prompt", "x", "--max-new-tokens", 2)
    assert (code, err) == (0, "")
    assert out.startswith(f"--- 1 ---\n{shown}")


@pytest.mark.parametrize("temperature", [5, 50])
def test_generate_of_tokens_that_are_no_text(printed: Printed, shipped: Path, temperature: int) -> None:
    code, out, err = printed("generate", shipped, "--prompt", TEXT, "--temperature", temperature, "--seed", 3)
    assert (code, err) == (0, "")
    assert len(out) > len(TEXT)


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_tables(printed: Printed, shipped: Path, command: str) -> None:
    code, out, err = printed(command, shipped, *(QUICK if command == "bench" else ()))
    assert (code, err) == (0, "")
    assert ("┃" in out) == (encoding_of(printed) == "utf-8")
    assert "?" not in out


@pytest.mark.parametrize("args", [["doctor"], ["plugins", "list"], ["--help"], ["compare", "--help"]], ids=" ".join)
def test_commands_without_a_bundle(printed: Printed, args: list[str]) -> None:
    code, out, err = printed(*args)
    assert (code, err) == (0, "")
    assert "?" not in out


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_json(printed: Printed, shipped: Path, command: str) -> None:
    code, out, _ = printed(command, shipped, "--json")
    assert code == 0
    assert json.loads(out)


def test_onnx(printed: Printed, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqexport.exporter import pipeline

    def export(settings: object, output: Path, stage: Callable[..., object], *more: object) -> object:
        with stage(f"load {TEXT}"):  # type: ignore[attr-defined]
            return open_bundle(shipped)

    monkeypatch.setattr(pipeline, "export", export)
    code, out, err = printed("onnx", "--arch", "mamba")
    assert (code, err) == (0, "")
    mark, allowed = {"ascii": ("+", "2x"), "cp1252": ("+", "2×"), "utf-8": ("✓", "2×")}[encoding_of(printed)]
    assert out.startswith(f"{mark} load ")
    assert f"{allowed} is allowed" in out


def test_compare(printed: Printed, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqexport.runtimes.comparison import compare

    few = msgspec.structs.replace(compare.QUICK.accuracy, rows=1, prompt=4, steps=4)
    short = msgspec.structs.replace(compare.QUICK.speed, lengths=(4,), steps=1, repeats=1)
    small = msgspec.structs.replace(compare.QUICK, accuracy=few, speed=short)
    monkeypatch.setattr(compare, "QUICK", small)
    page = tmp_path / "é🙂.html"
    code, out, err = printed("compare", shipped, "--backends", "ort", "--quick", "-o", page)
    assert (code, err) == (0, "")
    assert "page:" in out
    assert "<svg" in page.read_text(encoding="utf-8")


def test_errors(printed: Printed, tmp_path: Path) -> None:
    code, out, err = printed("inspect", tmp_path / TEXT / BAD_ARGUMENT)
    assert (code, out) == (2, "")
    shown = {"ascii": "?? the/caf?", "cp1252": "é? the/caf?", "utf-8": f"{TEXT}/caf�"}[encoding_of(printed)]
    assert f"{shown} is not a bundle: " in err


def test_an_argument_that_is_not_utf8_is_a_prompt_too(printed: Printed, shipped: Path) -> None:
    code, out, err = printed("generate", shipped, "--prompt", BAD_ARGUMENT, "--max-new-tokens", 2)
    assert (code, err) == (0, "")
    assert out.startswith("caf�" if encoding_of(printed) == "utf-8" else "caf?")


@pytest.mark.parametrize("option", ["--model", "--arch", "-o", "--dtype", "--opset"])
def test_an_option_that_is_not_utf8_is_refused(run: Run, tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    value = f"{tmp_path}/file/{BAD_ARGUMENT}" if option in ("--model", "-o") else BAD_ARGUMENT
    result = run("onnx", option, value, "--model", tmp_path / "none")
    assert result.code == 2
    assert "Traceback" not in result.err


LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "cp1252"}, LOCALE], ids=str)
def test_a_process_of_its_own(shipped: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    def seqexport(*args: object) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "seqexport.exporter.cli", *map(str, args)]
        environment = os.environ | variables
        return subprocess.run(command, capture_output=True, check=False, env=environment, cwd=tmp_path)

    made = seqexport("generate", shipped, "--prompt", TEXT, "--prompt", BAD_ARGUMENT, "--max-new-tokens", "2")
    assert (made.returncode, made.stderr) == (0, b"")
    assert b"? the" in made.stdout
    assert b"\ncaf?" in made.stdout
    (tmp_path / "é").symlink_to(shipped)
    found = seqexport("inspect", "é")
    if variables is LOCALE:
        assert found.returncode == 2
        assert found.stderr == b"error: '?' cannot be a name in this locale (ascii): choose one of UTF-8\n"
    else:
        assert (found.returncode, found.stderr) == (0, b"")


def test_a_folder_that_is_not_utf8(run: Run, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle in it opens by a relative path, and its name is recorded as text."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for file in shipped.iterdir():
        (folder / file.name).hardlink_to(file)
    monkeypatch.chdir(folder)
    result = run("bench", ".", *QUICK, "-o", "x.json")
    assert (result.code, result.err) == (0, "")
    assert json.loads((folder / "x.json").read_text(encoding="utf-8"))["bundle"] == "caf�"


@pytest.mark.parametrize(
    ("encoding", "text", "expected"),
    [
        ("ascii", "3.3 × 10⁻⁷, 5 µs – ✓", "3.3 x 10^-7, 5 us - +"),
        ("cp1252", "3.3 × 10⁻⁷, 5 µs – ✓", "3.3 × 10^-7, 5 µs – +"),
        ("utf-8", "10⁻⁷ ✓ \udce9", "10⁻⁷ ✓ �"),
        ("ascii", "日本 \udce9 …", "?? ? ..."),
    ],
)
def test_our_own_characters_have_stand_ins(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, expected: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    replace_unencodable()
    stream.write(text)
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) == expected  # type: ignore[attr-defined]


def test_readable() -> None:
    assert readable(BAD_ARGUMENT) == "caf�"
    assert readable("é") == "é"
