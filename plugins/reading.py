"""The gate for what seqexport did not write: bundles, checkpoints, sessions, engines, plugin libraries are read by it.

(1) A file is regular: a pipe or a device would be waited for, or read for ever.
(2) It lies in the folder that it is of, links followed; Hugging Face's cache counts as inside, where
    ``snapshots/<revision>/<file>`` is a link to ``blobs/<hash>``.
(3) It is no larger than its reader has use for.

What breaks a rule is an OSError, whose ``strerror`` says it as the system says that a file is not there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

SETTINGS = 1 << 22
"""Bytes at most of a file of settings: parsed, JSON takes some twenty times its size."""

LISTS = 1 << 26
"""Of a list with an entry for each tensor or word."""

WORDS = 1 << 28
"""Of a tokenizer."""

ANY = 1 << 62
"""Of what is never held in memory whole."""

BLOCK = 1 << 20
KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular(file: Path, most: int, folder: Path | None = None) -> Path:
    """The file itself, links followed, for a library that opens it by its name.

    Args:
        file: its path, below ``folder`` where that is given.
        most: bytes at most.
        folder: what it must not lead out of; None for a file that the user has named, whose links are the user's own.

    Raises:
        OSError: it cannot be read, or breaks a rule.
    """
    with opened(file, most, folder) as stream:
        return Path(stream.name)


def read(file: Path, most: int, folder: Path | None = None) -> bytes:
    """What a file holds; arguments and errors as of ``regular``."""
    with opened(file, most, folder) as stream:
        return stream.read(os.fstat(stream.fileno()).st_size)


def read_json(file: Path, most: int = SETTINGS, folder: Path | None = None) -> Any:
    """The JSON of a file; arguments and errors as of ``regular``.

    Raises:
        ValueError: it is none, or nested deeper than any reader of it would go.
    """
    data = read(file, most, folder)
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def sha256(file: Path, folder: Path | None = None, most: int = ANY) -> str:
    """Of a file, which is not held in memory; arguments and errors as of ``regular``."""
    digest = hashlib.sha256()
    with opened(file, most, folder) as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def opened(file: Path, most: int, folder: Path | None = None) -> Iterator[BinaryIO]:
    """A file to read from; arguments and errors as of ``regular``."""
    if folder is not None and not is_inside(folder, str(file.relative_to(folder))):
        raise OSError(errno.EPERM, "a link that leads out of its folder; put the file itself in its place", str(file))
    target = file.resolve()
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
    _check_kind(target.stat().st_mode, file)
    with open(target, "rb", opener=lambda path, _: os.open(path, flags)) as stream:
        status = os.fstat(stream.fileno())
        _check_kind(status.st_mode, file)
        _check_size(status.st_size, most, file)
        yield stream


def is_inside(folder: Path, name: str) -> bool:
    """Whether the file that ``folder`` has under a relative name is the folder's own, links followed."""
    if not name or "\0" in name or any(_leaves(flavour(name)) for flavour in (PurePosixPath, PureWindowsPath)):
        return False
    try:
        home, target = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        return False
    return home in target.parents or target.parent == _blobs(home)


def _check_kind(mode: int, file: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{KINDS.get(stat.S_IFMT(mode), 'no file')}; expected a regular file", str(file))


def _check_size(size: int, most: int, file: Path) -> None:
    if size > most:
        raise OSError(errno.EFBIG, f"{size:,} bytes; expected at most {most:,}", str(file))


def _leaves(path: PurePosixPath | PureWindowsPath) -> bool:
    return bool(path.anchor) or ".." in path.parts


def _blobs(home: Path) -> Path | None:
    snapshots = next((path for path in home.parents if path.name == "snapshots"), None)
    return snapshots.parent / "blobs" if snapshots else None
