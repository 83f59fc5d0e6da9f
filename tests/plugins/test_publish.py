"""What is published appears whole, whoever is interrupted, killed, in each other's way, or short of room."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from seqexport.plugins import exchange, files, locks, publish
from seqexport.plugins.locks import Taken
from seqexport.plugins.publish import claimed, give_up_all, require_writable, whole_file, write_whole

Contents = dict[str, bytes | None]


def contents(folder: Path) -> Contents:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def write_folder(path: Path, data: bytes, *, replaces: tuple[str, ...] | None = None) -> None:
    with claimed(path, wait=False) as claim, claim.folder(replaces=replaces, last="manifest") as folder:
        (folder / "manifest").write_bytes(data)
        (folder / "weights").write_bytes(data)


def folder_of(data: bytes, name: str = "out") -> Contents:
    return {name: None, f"{name}/manifest": data, f"{name}/weights": data}


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_renameat2", lambda: None)


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder that is there is a mount point."""
    monkeypatch.setattr(publish, "is_mount", lambda folder: True)


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
    with pytest.raises(OSError, match="No space left"):
        write_folder(tmp_path / "out", b"new")
    assert contents(tmp_path) == {"old": b"old"}


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_whole(tmp_path / "folder", b"new")
    assert contents(tmp_path) == {"folder": None}


def test_a_link_keeps_leading_to_its_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere/file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"new"
    (tmp_path / "other").symlink_to("elsewhere/out")
    write_folder(tmp_path / "other", b"1")
    write_folder(tmp_path / "other", b"2", replaces=())
    assert (tmp_path / "other").is_symlink()
    assert (tmp_path / "elsewhere/out/manifest").read_bytes() == b"2"


def test_what_is_no_file_is_written_as_it_is() -> None:
    reader, writer = os.pipe()
    require_writable(Path(f"/dev/fd/{writer}"))
    write_whole(Path(f"/dev/fd/{writer}"), b"new")
    os.close(writer)
    assert os.read(reader, 9) == b"new"
    os.close(reader)


def test_who_may_read_it_is_up_to_the_user(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"")
        write_folder(tmp_path / "folder", b"")
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("file", "folder")] == ["0o640", "0o750"]


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "x" * 250])
def test_a_name_as_long_as_a_file_system_takes(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"new")
    assert contents(tmp_path) == {name: b"new"}
    (tmp_path / name).unlink()
    write_folder(tmp_path / name, b"1")
    write_folder(tmp_path / name, b"2", replaces=())
    assert contents(tmp_path) == folder_of(b"2", name)


def test_whether_a_file_could_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "file")
    (tmp_path / "taken").write_text("")
    for file in (tmp_path / "taken" / "file", tmp_path, Path("/proc/file"), tmp_path / ("x" * 256)):
        with pytest.raises(OSError, match=r"directory|exists|No such|permitted|denied|too long"):
            require_writable(file)
    assert contents(tmp_path) == {"taken": b""}


def at_every_line(write: Callable[[], None], do: Callable[[], None]) -> None:
    """Runs ``write``, and ``do`` before each line of all that publishing runs."""
    ours = {module.__file__ for module in (exchange, files, locks, publish)}

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in ours:
            return None
        if event == "line":
            do()
        return trace

    sys.settrace(trace)
    try:
        write()
    finally:
        sys.settrace(None)


def interrupted(write: Callable[[], None], at: int) -> bool:
    """Runs ``write`` with an interrupt at the line ``at`` of all that publishing runs; whether there are so many."""
    lines = 0

    def count() -> None:
        nonlocal lines
        lines += 1
        if lines == at:
            sys.settrace(None)
            raise KeyboardInterrupt

    try:
        at_every_line(write, count)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("how", ["exchange", "renames", "inside"])
def test_an_interrupt_at_any_line_leaves_the_old_or_the_new_and_nothing_else(
    tmp_path: Path, how: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    request.getfixturevalue({"exchange": "tmp_path", "renames": "without_exchange", "inside": "mounted"}[how])
    seen, at = set(), 0
    while True:
        write_folder(tmp_path / "out", b"old", replaces=("manifest", "weights"))
        at += 1
        if not interrupted(lambda: write_folder(tmp_path / "out", b"new", replaces=("manifest", "weights")), at):
            break
        give_up_all()
        found = contents(tmp_path)
        assert found in (folder_of(b"old"), folder_of(b"new")), at
        seen.add(found["out/manifest"])
    assert seen == {b"old", b"new"} and at > 50


def test_an_interrupt_at_any_line_of_a_file(tmp_path: Path) -> None:
    at = 1
    write_whole(tmp_path / "a", b"old")
    while interrupted(lambda: write_whole(tmp_path / "a", b"new"), at):
        give_up_all()
        assert contents(tmp_path) in ({"a": b"old"}, {"a": b"new"}), at
        write_whole(tmp_path / "a", b"old")
        at += 1
    assert at > 30


def write_from(path: str, data: str) -> subprocess.Popen[bytes]:
    """A process that begins to write a folder, says so, and waits for a line before it ends the writing."""
    program = (
        "import sys; from pathlib import Path; from seqexport.plugins.publish import claimed\n"
        "with claimed(Path(sys.argv[1])) as claim, claim.folder(replaces=None, last='manifest') as folder:\n"
        "    (folder / 'manifest').write_text(sys.argv[2]); (folder / 'weights').write_text(sys.argv[2])\n"
        "    print(flush=True); sys.stdin.readline()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, path, data], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"\n"
    return process


def test_a_second_writer_of_one_output_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    with write_from(str(tmp_path / "out"), "first") as first:
        with pytest.raises(Taken):
            write_folder(tmp_path / "out", b"second")
        write_folder(tmp_path / "other", b"third")
        first.communicate(b"\n")
    assert contents(tmp_path) == folder_of(b"first") | folder_of(b"third", "other")
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "out", b"second")
    assert contents(tmp_path) == folder_of(b"first") | folder_of(b"third", "other")


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path: Path) -> None:
    with write_from(str(tmp_path / "out"), "first") as killed:
        killed.send_signal(signal.SIGKILL)
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.lock", ".out.new"]
    write_folder(tmp_path / "out", b"second")
    assert contents(tmp_path) == folder_of(b"second")


@contextmanager
def failed_replacement(path: Path, fails: Callable[[Path], bool]) -> Iterator[None]:
    """A folder that is there cannot be replaced: renames fail to the targets of which ``fails`` says so."""
    write_folder(path, b"old")
    real = Path.rename

    def rename(source: Path, target: Path) -> Path:
        if fails(target):
            raise OSError(errno.EIO, "Input/output error")
        return real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(OSError, match="Input/output"):
            write_folder(path, b"new", replaces=())
        yield


@pytest.mark.usefixtures("without_exchange")
def test_a_failed_step_brings_the_old_one_back(tmp_path: Path) -> None:
    renames = itertools.count(1)
    with failed_replacement(tmp_path / "out", lambda target: next(renames) == 2):
        assert contents(tmp_path) == folder_of(b"old")


@pytest.mark.usefixtures("without_exchange")
def test_an_old_one_that_cannot_be_brought_back_is_kept_for_the_next_writer(tmp_path: Path) -> None:
    with failed_replacement(tmp_path / "out", lambda target: target.name == "out"):
        assert folder_of(b"old", ".out.old").items() <= contents(tmp_path).items()
    with claimed(tmp_path / "out"):
        pass
    assert contents(tmp_path) == folder_of(b"old")


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_where_the_file_system_cannot_exchange_two_renames_do(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_renameat2", lambda: lambda *names: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: code)
    write_folder(tmp_path / "out", b"old")
    write_folder(tmp_path / "out", b"new", replaces=())
    assert contents(tmp_path) == folder_of(b"new")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks(tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    write_whole(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"new"}


def test_the_current_folder_is_written_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    inode = Path().stat().st_ino
    write_folder(Path("."), b"old")
    assert contents(tmp_path) == folder_of(b"old", "here")
    (tmp_path / "here" / "mine.txt").write_bytes(b"mine")
    write_folder(Path("."), b"new", replaces=("manifest", "weights", "gone"))
    assert contents(tmp_path) == folder_of(b"new", "here") | {"here/mine.txt": b"mine"}
    assert Path().stat().st_ino == inode


@pytest.mark.parametrize("plan", [
    {"remove": ["../mine"], "move": ["x"]}, {"remove": [], "move": ["x", "../mine"]}, {"remove": ["/mine"], "move": []},
    {"remove": [".."], "move": ["x"]}, {"remove": 1, "move": []}, {"remove": []}, [], "x",
])  # fmt: skip
def test_a_plan_of_somebody_else_reaches_nothing_outside(mounted: None, tmp_path: Path, plan: object) -> None:
    output, mine = tmp_path / "output", tmp_path / "mine"
    (output / ".seqexport.new").mkdir(parents=True)
    (output / ".seqexport.new" / "x").touch()
    mine.write_text("mine")
    (output / ".seqexport.todo").write_text(json.dumps(plan))
    with pytest.raises(OSError, match="no plan of what to move; remove it"), publish.claimed(output):
        pass
    assert mine.read_text() == "mine" and (output / ".seqexport.new" / "x").exists()


def test_a_plan_moves_nothing_by_a_link(mounted: None, tmp_path: Path) -> None:
    output, mine = tmp_path / "output", tmp_path / "mine"
    for folder in (output, mine):
        folder.mkdir()
    (mine / "x").touch()
    (output / ".seqexport.new").symlink_to(mine)
    (output / ".seqexport.todo").write_text('{"remove": [], "move": ["x"]}')
    with pytest.raises(OSError, match="no plan of what to move"), publish.claimed(output):
        pass
    assert (mine / "x").exists()


def test_a_mount_point_is_told_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system lists it, also where it is of the same disk."""
    listed = tmp_path / "mountinfo"
    name = str(tmp_path / "a b").replace(" ", "\\040")
    listed.write_text(f"36 35 98:0 / {name} rw,noatime - ext4 /dev/root rw\n")
    monkeypatch.setattr(files, "MOUNTS", listed)
    assert [files.is_mount(tmp_path / each) for each in ("a b", "a")] == [True, False]
    assert files.is_mount(Path("/"))


def test_readers_see_the_old_or_the_new_and_nothing_else(tmp_path: Path) -> None:
    out, seen = tmp_path / "out", list[Contents]()
    write_folder(out, b"old")
    at_every_line(lambda: write_folder(out, b"new", replaces=()), lambda: seen.append(contents(out)))
    old, new = ({"manifest": data, "weights": data} for data in (b"old", b"new"))
    assert [each for each in seen if each not in (old, new)] == []
    assert (seen[0], seen[-1]) == (old, new)


def test_a_forked_child_leaves_its_parents_work_alone(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as written:
        written.write_bytes(b"new")
        if (child := os.fork()) == 0:
            with suppress(BaseException):
                give_up_all()
            os._exit(0)
        os.waitpid(child, 0)
    assert contents(tmp_path) == {"file": b"new"}
