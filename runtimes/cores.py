"""Work on arrays so large that several cores are done with it sooner than one; NumPy uses one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from seqexport.plugins.cores import usable_cores

LARGE = 4 << 20
"""Bytes, from which on a thread that is woken costs less than it saves."""

MOST = 8


def by_rows(work: Callable[[slice], object], rows: int, nbytes: int) -> None:
    """Call ``work`` for parts of ``nbytes`` in rows that are all of them together, on several cores at once.

    Raises:
        Exception: what ``work`` raised, of the first part that did.
    """
    parts = max(1, min(rows, _cores(), nbytes // LARGE))
    bounds = [rows * part // parts for part in range(parts + 1)]
    slices = [slice(*ends) for ends in itertools.pairwise(bounds)]
    if parts == 1:
        work(slices[0])
    else:
        list(_pool().map(work, slices))


@cache
def _cores() -> int:
    return min(MOST, usable_cores())


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="seqexport-rows")
