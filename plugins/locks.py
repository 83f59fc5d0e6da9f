"""Locks between processes: a file that one process at a time holds, and that the system frees when it dies."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}
"""What a file system says that has none."""


class Taken(OSError):
    """Another process, or another thread of this one, has the lock."""


class Lock:
    """The file ``path``, which is there while the lock is held. Where a system or a file system has none, all hold it.

    Attributes:
        held: by this.
        descriptor: a child process that inherits it holds the lock too, until it ends; -1 where there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = False
        self.descriptor = -1

    def take(self, *, wait: bool) -> None:
        """Whatever comes of it, ``release`` it.

        Raises:
            Taken: another one has it, and is not waited for.
            OSError: the file cannot be written.
        """
        while not self.held:
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
            _lock(self.descriptor, wait=wait)
            self.held = self._is_there()
            if not self.held:  # the one before removed it
                self._close()

    def release(self) -> None:
        """Nothing if it is not held; what was cut off in the middle of ``take`` is released too."""
        if self.descriptor < 0:
            return
        with suppress(OSError):  # another one's; and Windows removes no open file
            _lock(self.descriptor, wait=False)
            if self._is_there():
                self.path.unlink()
        self.held = False
        self._close()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        os.close(descriptor)


def _lock(descriptor: int, *, wait: bool) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise Taken(errno.EWOULDBLOCK, "another process is writing there") from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise


@contextmanager
def locked(lock: Lock) -> Iterator[None]:
    """Waits for the lock, and holds it while the block runs."""
    try:
        lock.take(wait=True)
        yield
    finally:
        lock.release()
