"""What was asked so far, and how much memory the server had meanwhile."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Any

INTERVAL = 0.25
WARM = 0.1
"""Of all requests, during which allocators, caches and pools fill; memory counts after it."""


class Differs(Exception):
    """An answer that is not the expected one."""


class Tally:
    """Requests by kind and status, and samples of resident memory."""

    def __init__(self, requests: int) -> None:
        self.requests, self.asked = requests, 0
        self.kinds: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.memory: list[tuple[int, int]] = []
        self._began = monotonic()

    @property
    def left(self) -> bool:
        return self.asked < self.requests

    @property
    def seconds(self) -> float:
        return monotonic() - self._began

    def count(self, status: int | None) -> None:
        """One request, answered with a status, or whose client left."""
        self.asked += 1
        self.statuses[str(status or "left")] += 1

    async def watch(self, rss: Callable[[], int], show: Callable[[Tally], None]) -> None:
        """Sample memory until it is cancelled."""
        while True:
            self.memory.append((self.asked, rss()))
            show(self)
            await asyncio.sleep(INTERVAL)

    def drift(self) -> dict[str, Any]:
        """Growth of resident memory under load, after the first ``WARM`` of all requests.

        The floor of the samples of the last tenth over that of the first tenth, less 1. Memory swings with the size of
        the running batch and with bodies on their way; a tenth of the samples is below the floor.
        """
        under_load = [rss for asked, rss in self.memory if WARM * self.requests <= asked < self.requests]
        samples = under_load or [rss for _, rss in self.memory]  # of a run that is over at once
        tenth = max(1, len(samples) // 10)
        parts = sorted(samples[:tenth]), sorted(samples[-tenth:])
        first, last = (part[len(part) // 10] for part in parts)
        return {
            "first_bytes": first,
            "last_bytes": last,
            "median_bytes": [int(statistics.median(part)) for part in parts],
            "most_bytes": max(samples),
            "drift": last / first - 1,
            "samples": len(samples),
            "course": [[asked, rss] for asked, rss in self.memory[:: max(1, len(self.memory) // 50)]],
        }
