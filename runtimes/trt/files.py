"""Files that are written whole or not at all, and found writable before a build that takes minutes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def require_writable(file: Path) -> None:
    """Find out whether ``write_whole`` could write a file; nothing stays of it, nor of the folders made for it.

    Raises:
        OSError: it could not.
    """
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        if file.is_dir():
            raise IsADirectoryError(21, os.strerror(21), str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        with _beside(file):
            pass
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def write_whole(file: Path, data: memoryview) -> None:
    """Write a file through a temporary sibling, so that no half of it ever carries the name; makes its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with _beside(file) as written:
        _fill(written, data)
        written.replace(file)


def write_both(first: Path, first_data: memoryview, second: Path, second_data: memoryview) -> None:
    """Write two files of one folder; where one cannot be written, both stay what they were."""
    first.parent.mkdir(parents=True, exist_ok=True)
    with _beside(first) as new_first, _beside(second) as new_second, _beside(first) as before:
        _fill(new_first, first_data)
        _fill(new_second, second_data)
        was_there = first.exists()
        if was_there:
            _keep(first, before)
        try:
            new_first.replace(first)
            new_second.replace(second)
        except BaseException:
            if was_there:
                before.replace(first)
            else:
                first.unlink(missing_ok=True)
            raise


def _keep(file: Path, copy: Path) -> None:
    """A second name, at which a file survives being replaced."""
    copy.unlink()
    try:
        os.link(file, copy)
    except OSError:  # a file system without links
        file.replace(copy)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """A temporary sibling, which vanishes unless it is moved away."""
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        with contextlib.suppress(OSError):
            Path(name).unlink()


def _fill(file: Path, data: memoryview) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    file.chmod(0o644)
