"""Two names that change places in one step, where kernel and file system can: Linux, but for some NFS and FUSE."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path

AT_FDCWD = -100
RENAME_EXCHANGE = 2
CANNOT = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM}
"""What renameat2 says where it cannot do so at all; a folder that may not be written is found by the renames then."""


def exchange(new: Path, path: Path, aside: Path) -> None:
    """``new`` and ``path``, which are both there, change places.

    Where that is no single step, ``path`` first goes ``aside``: for a moment nothing has its name, and one that is
    killed then leaves it there for ``recover``.

    Raises:
        OSError: it cannot be done; both are where they were.
    """
    if _in_one_step(new, path):
        return
    path.rename(aside)
    try:
        new.rename(path)
    except BaseException:
        aside.rename(path)
        raise
    aside.rename(new)


def recover(path: Path, aside: Path) -> None:
    """Bring back what an ``exchange`` put aside and died."""
    if os.path.lexists(aside) and not os.path.lexists(path):
        aside.rename(path)


def _in_one_step(new: Path, path: Path) -> bool:
    renameat2 = _renameat2()
    if renameat2 is None:
        return False
    if not renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(path), RENAME_EXCHANGE):
        return True
    if (code := ctypes.get_errno()) in CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(path))


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):  # no Linux, or a C library before its day
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    found: Callable[..., int] = function
    return found
