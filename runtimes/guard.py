"""What one thread at a time may use."""

from __future__ import annotations

import threading
from types import TracebackType

from seqexport.plugins.errors import UserError


class Guard:
    """Held in a ``with`` statement, by one thread again and again.

    Args:
        what: is guarded, as ``session``.

    Raises:
        UserError: another thread holds it.
    """

    def __init__(self, what: str) -> None:
        self._what, self._lock = what, threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise UserError(
                f"this {self._what} is in use by another thread; give each thread a {self._what} of its own"
            )

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()
