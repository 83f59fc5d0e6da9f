"""What is no file, leads out of its folder, or is too large is refused before a byte is read or a moment waited."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from seqexport.plugins.reading import ANY, opened, read, read_json, regular, sha256

READERS: list[Callable[[Path], object]] = [
    lambda file: read(file, 100, file.parent),
    lambda file: regular(file, 100, file.parent),
    lambda file: sha256(file, file.parent),
    lambda file: read_json(file, 100, file.parent),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("{}")
    return tmp_path / "in"


def refusal(reader: Callable[[Path], object], file: Path) -> str:
    with pytest.raises(OSError) as refused:  # noqa: PT011
        reader(file)
    return str(refused.value.strerror)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file(reader: Callable[[Path], object], folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert refusal(reader, folder / "pipe") == "a pipe; expected a regular file"
    (folder / "sub").mkdir()
    assert refusal(reader, folder / "sub") == "Is a directory"
    assert refusal(reader, folder / "none") == "No such file or directory"
    assert refusal(reader, folder / ("n" * 300)) == "File name too long"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("to", ["../secret", "/dev/zero", "loop", "sub/secret"])
def test_links_that_lead_out(reader: Callable[[Path], object], folder: Path, to: str) -> None:
    (folder / "sub").symlink_to("..")
    (folder / "loop").symlink_to(to)
    assert refusal(reader, folder / "loop").startswith("a link that leads out of its folder")


def test_links_of_the_user_s_own_are_followed_to_files_alone(folder: Path) -> None:
    (folder / "link").symlink_to("../secret")
    assert read(folder / "link", 2) == b"{}"
    assert regular(folder / "link", 2) == folder.parent / "secret"
    (folder / "zero").symlink_to("/dev/zero")
    assert refusal(lambda file: read(file, ANY), folder / "zero") == "a device; expected a regular file"


def test_a_file_that_is_too_large_is_not_read(folder: Path) -> None:
    (folder / "huge").touch()
    os.truncate(folder / "huge", 1 << 40)
    assert refusal(lambda file: read(file, 100), folder / "huge") == "1,099,511,627,776 bytes; expected at most 100"
    with opened(folder / "huge", ANY) as stream:
        assert stream.read(1) == b"\0"


@contextmanager
def closed(folder: Path) -> Iterator[Path]:
    """A folder that nobody may look into or write to; root becomes nobody meanwhile."""
    user, mode = os.geteuid(), folder.stat().st_mode
    folder.chmod(0)
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(mode)


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_without_permission(reader: Callable[[Path], object], folder: Path) -> None:
    (folder / "file").write_text("{}")
    with closed(folder):
        assert refusal(reader, folder / "file") == "Permission denied"


def test_brackets_in_brackets_are_no_json(folder: Path) -> None:
    (folder / "deep").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ValueError, match="nested too deep"):
        read_json(folder / "deep")
