"""The command line, run in this process: what it prints and how it exits."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seqexport.exporter.cli import SIGNALS, TRACEBACK, main
from tests.conftest import Exported, Saved


@dataclass(frozen=True)
class Result:
    code: object
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line on stderr of a command that could not do what it was asked."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        assert TRACEBACK not in self.err, self.err  # what is said is foreseen
        return self.err.removeprefix("error: ").strip()


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs ``seqexport`` with arguments."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    monkeypatch.delenv("COLUMNS", raising=False)  # of the terminal that the tests themselves run in

    def seqexport(*args: object) -> Result:
        monkeypatch.setattr("sys.argv", ["seqexport", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main()
        return Result(exited.value.code, *capfd.readouterr())

    yield seqexport
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="session")
def shipped(exported: Exported) -> Path:
    """A bundle of the shipped Mamba, which has a tokenizer."""
    return exported("preset:mamba", target="ort", dtype="float32", logits="all").path


@pytest.fixture
def copy(shipped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def shipped_transformer(exported: Exported) -> Path:
    return exported("preset:transformer", target="ort", dtype="float32", logits="all").path


@pytest.fixture
def llama(checkpoint: Saved, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint("llama"), tmp_path / "in" / "llama"))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to write to."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() if f.is_file() else b"" for f in folder.rglob("*")}
