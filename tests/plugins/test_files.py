"""What is written stands whole under its name, or nothing is changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from seqexport.plugins.files import require_writable, whole_file, whole_files, whole_folder, write_whole
from seqexport.plugins.reading import sha256


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)


@pytest.fixture
def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*names: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", fail)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_sha256(tmp_path: Path, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "file").write_bytes(data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_a_file_and_the_folders_above_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b" / "file", b"first")
    write_whole(tmp_path / "a" / "b" / "file", memoryview(b"second"))
    assert contents(tmp_path) == {"a": None, "a/b": None, "a/b/file": b"second"}


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new", "a/b/new"):
        with pytest.raises(OSError, match="No space left"):
            write_whole(tmp_path / name, b"new")
    assert contents(tmp_path) == {"old": b"old"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "folder", b"new")
    assert contents(tmp_path) == {"folder": None}


def test_a_link_keeps_leading_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere/file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"


def test_what_is_no_file_is_written_as_it_is() -> None:
    reader, writer = os.pipe()
    write_whole(Path(f"/dev/fd/{writer}"), b"new")
    os.close(writer)
    assert os.read(reader, 9) == b"new"
    os.close(reader)


def test_who_may_read_it_is_up_to_the_user(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"")
        with whole_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("file", "folder")] == ["0o640", "0o750"]


def test_several_files_are_replaced_together(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with whole_files([tmp_path / "a", tmp_path / "b"]) as places:
        for place in places:
            place.write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert contents(tmp_path) == {"a": b"new", "b": b"new"}


def write_all(files: list[Path]) -> None:
    with whole_files(files) as places:
        for place in places:
            place.write_bytes(b"new")


@pytest.mark.parametrize("links", ["with_links", "without_links"])
@pytest.mark.parametrize("lost", ["a", "b", "c"])
def test_where_one_of_several_cannot_be_replaced_all_stay(
    tmp_path: Path, links: str, lost: str, request: pytest.FixtureRequest
) -> None:
    if links == "without_links":
        request.getfixturevalue(links)
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "c").write_bytes(b"old c")
    (tmp_path / lost).unlink(missing_ok=True)
    (tmp_path / lost / "precious").mkdir(parents=True)
    before = contents(tmp_path)
    with pytest.raises(OSError, match="directory"):
        write_all([tmp_path / name for name in "abc"])
    assert contents(tmp_path) == before


def write_half(path: Path, error: BaseException) -> None:
    with whole_folder(path) as work:
        (work / "model.onnx").write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_half(tmp_path / "out" / "bundle", error)
    assert contents(tmp_path) == {}


def test_an_old_folder_survives_a_failed_replacement(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "file").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        write_half(tmp_path / "bundle", OSError("disk full"))
    assert contents(tmp_path) == {"bundle": None, "bundle/file": b"old"}


def test_a_new_folder_replaces_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "file").write_bytes(b"old")
    with whole_folder(tmp_path / "bundle") as work:
        (work / "new").write_bytes(b"1")
    assert contents(tmp_path) == {"bundle": None, "bundle/new": b"1"}


def write_half_a_file(file: Path) -> None:
    with whole_file(file) as place:
        place.write_bytes(b"half")
        raise KeyboardInterrupt


def test_an_interrupted_file_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half_a_file(tmp_path / "file")
    assert contents(tmp_path) == {}


def test_whether_a_file_could_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "file")
    (tmp_path / "taken").write_text("")
    for file in (tmp_path / "taken" / "file", tmp_path, Path("/proc/file")):
        with pytest.raises(OSError, match=r"directory|exists|No such|permitted|denied"):
            require_writable(file)
    assert contents(tmp_path) == {"taken": b""}
