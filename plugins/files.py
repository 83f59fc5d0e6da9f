"""Files and folders that are written whole or not at all: beside their place, then moved there."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


def write_whole(file: Path, data: bytes | memoryview) -> None:
    """Write a file, and the folders above it; where that fails, what was there stays, and nothing else.

    A link keeps leading to its file, and what is no file, such as ``/dev/stdout``, is written as it is.

    Raises:
        OSError: it cannot be written.
    """
    if file.exists() and not (file.is_file() or file.is_dir()):
        file.write_bytes(data)
        return
    with whole_file(file) as written:
        write_through(written, data)


@contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Where to write what becomes ``file`` when the block ends well, and vanishes when it does not."""
    with whole_files([file]) as (written,):
        yield written


@contextmanager
def whole_files(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Where to write what becomes ``files`` when the block ends well; all of them, or each stays what it was."""
    files = [file.resolve() for file in files]
    with ExitStack() as stack:
        for file in files:
            stack.enter_context(folders_above(file))
        written = [stack.enter_context(beside(file)) for file in files]
        before = [stack.enter_context(beside(file)) for file in files]
        yield written
        with ExitStack() as undo:
            for new, old, file in zip(written, before, files, strict=True):
                undo.callback(_restore, file, old, was_there=file.exists())
                if file is not files[-1]:
                    _keep(file, old)
                new.replace(file)
            undo.pop_all()


def _keep(file: Path, copy: Path) -> None:
    """A second name, at which a file survives being replaced."""
    if not file.is_file():
        return
    try:
        os.link(file, copy)
    except OSError:  # a file system without links
        file.replace(copy)


def _restore(file: Path, copy: Path, *, was_there: bool) -> None:
    if copy.exists():
        copy.replace(file)
    elif not was_there:
        file.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that becomes ``path`` when the block ends well, and vanishes when it does not."""
    with folders_above(path), beside(path) as written:
        written.mkdir()
        yield written
        _swap(written, path)


def require_writable(file: Path) -> None:
    """Find out whether a file could be written; nothing stays of it, nor of the folders made for it.

    Raises:
        OSError: it could not.
    """
    with folders_above(file):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
        with beside(file) as probe:
            probe.touch()


def _swap(new: Path, path: Path) -> None:
    if not path.exists():
        new.rename(path)
        return
    with beside(path) as old:
        path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            old.rename(path)
            raise


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A free name in the same folder; what the block leaves there, file or folder, vanishes."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):
                temporary.unlink()


@contextmanager
def folders_above(path: Path) -> Iterator[None]:
    """Makes the folders that ``path`` needs; of these, what is empty in the end vanishes."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in made:
            with suppress(OSError):  # it holds what was written
                folder.rmdir()


def write_through(file: Path, data: bytes | memoryview) -> None:
    """Write a file, down to the disk."""
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
