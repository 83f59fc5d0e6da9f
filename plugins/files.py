"""What is asked of files and folders, and done to them, on the way to the disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")


def remove(path: Path) -> None:
    """A file or a folder with all that is in it; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def sync(path: Path) -> None:
    """A file, or a folder and all that is in it, down to the disk.

    Raises:
        OSError: not all of it could be written.
    """
    if not path.is_dir():
        _sync(path)
        return
    for each in path.iterdir():
        sync(each)
    sync_names(path)


def sync_names(folder: Path) -> None:
    """The names in a folder, where the system and the file system can."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL, errno.ENOTSUP):
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_mount(folder: Path) -> bool:
    """Whether another folder or disk is mounted at an absolute path."""
    if os.path.ismount(folder):
        return True
    try:
        mounts = MOUNTS.read_bytes().splitlines()
    except OSError:  # no Linux, which alone can mount a folder of the same disk
        return False
    return os.fsencode(folder) in [_unescaped(mount.split()[4]) for mount in mounts]


def _unescaped(name: bytes) -> bytes:
    """``\\040`` and the like are bytes."""
    return name.decode("unicode_escape", "surrogateescape").encode("latin-1", "replace")


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
