"""What a process that does nothing but serve asks of those who keep its memory."""

from __future__ import annotations

import ctypes
import gc
import sys
from contextlib import suppress

M_ARENA_MAX = -8
"""glibc's number of that setting, in malloc.h."""


def share_one_heap() -> None:
    """Let all threads allocate from one heap, where the system's C library is glibc; before they are started.

    By itself it gives each of many threads a heap of its own, which keeps what it once held while others grow.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


def settle() -> None:
    """What is there now stays for good: the garbage collector does not go through it again.

    That would hold up all streams for longer than a token takes.
    """
    gc.collect()
    gc.freeze()
