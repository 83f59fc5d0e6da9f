"""``seqexport serve`` as users start it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from seqexport.exporter.cli import cli
from seqexport.plugins.errors import UserError
from seqexport.plugins.reading import SETTINGS
from seqexport.runtimes.serve.keys import read_keys
from seqexport.runtimes.serve.server import listen
from tests.conftest import Exported


def run(*arguments: str) -> None:
    cli(["serve", *arguments], standalone_mode=False)


@pytest.fixture
def bundle(exported: Exported) -> Path:
    return exported("preset:mamba", target="ort", dtype="float32", logits="last").path


def test_what_is_wrong_is_said_before_it_listens(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# none yet\n\n")
    for arguments, message in (
        ([str(tmp_path)], "is not a bundle"),
        ([str(bundle), "--backend", "gpu"], "`backend` 'gpu'"),
        ([str(bundle), "--backend", "trt", "--threads", "2"], "`threads`: not an option of backend trt"),
        ([str(bundle), "--api-key-file", str(tmp_path / "none")], "none: cannot be read"),
        ([str(bundle), "--api-key-file", str(tmp_path / "empty")], "has no key"),
        ([str(bundle), "--share-sessions"], "`share_sessions` needs a `session_dir`"),
        ([str(bundle), "--host", "no.such.host.invalid"], "cannot listen there"),
    ):
        with pytest.raises(UserError, match=message):
            run(*arguments)


def test_a_port_that_is_taken_is_named(bundle: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: cannot listen there .*; choose another `host`"):
            run(str(bundle), "--port", str(port))


def test_a_bundle_that_does_not_open_ends_the_server(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seqexport.runtimes.ort import runner

    def refuse(*arguments: object, **options: object) -> None:
        raise UserError("there is no more memory")

    monkeypatch.setattr(runner, "open_engine", refuse)
    with pytest.raises(UserError, match="no more memory"):
        run(str(bundle), "--port", "0")


def test_without_the_extra_it_says_what_to_install(bundle: Path) -> None:
    script = f"""
import sys
sys.modules["fastapi"] = None
from seqexport.exporter.cli import cli
try:
    cli(["serve", {str(bundle)!r}, "--port", "0"], standalone_mode=False)
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "UserError a server needs fastapi: pip install 'seqexport[serve]'\n"


def test_nothing_that_it_imports_needs_torch() -> None:
    script = "import sys; sys.modules['torch'] = None; import seqexport.runtimes.serve.server"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_keys_are_a_files_lines(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\none\n\n  two \n")
    keys = read_keys(tmp_path / "keys")
    given = (b"Bearer one", b"bearer two", b"Bearer # ours", b"Bearer ", b"one", None, b"Bearer one two")
    assert [keys.allow(each) for each in given] == [True, True, False, False, False, False, False]


@pytest.mark.parametrize(("file", "why"), [
    ("/dev/zero", "a device; expected a regular file"), ("nothing", "No such file"), ("latin", "can't decode"),
    ("comments", "has no key"), ("long", "expected at most"),
])  # fmt: skip
def test_a_file_that_has_no_keys_is_refused(file: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xff")
    (tmp_path / "comments").write_text("# one\n\n")
    (tmp_path / "long").write_bytes(b"x" * (SETTINGS + 1))
    with pytest.raises(UserError, match=why):
        read_keys(tmp_path / file)
