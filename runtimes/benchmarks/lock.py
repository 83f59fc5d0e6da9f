"""Several programs prepare themselves on one GPU at the same time, then each has it alone to be timed.

A lock file in the folder of the run: shared while something is compiled or warmed up, exclusive while a clock runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal


@contextmanager
def together(lock: Path) -> Iterator[None]:
    """Others may do the same; nobody is timed meanwhile."""
    with _locked(lock, "LOCK_SH"):
        yield


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits until nobody else uses the GPU, and keeps them waiting."""
    with _locked(lock, "LOCK_EX"):
        yield


@contextmanager
def _locked(lock: Path, kind: Literal["LOCK_SH", "LOCK_EX"]) -> Iterator[None]:
    import fcntl  # which Windows lacks; the programs that time nothing on a GPU need no lock

    with lock.open("a") as file:
        fcntl.flock(file, getattr(fcntl, kind))
        yield
