"""How many cores a process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Those that the system lets this process run on; macOS and Windows keep no such set, so all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
