"""Texts that end an answer, also where they come in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes text on until one of ``stops`` appears; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is certain now; once stopped, none."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        self._held += text
        if found := [at for stop in self._stops if (at := self._held.find(stop)) >= 0]:
            self.stopped = True
            return self._give(min(found))
        return self._give(len(self._held) - self._may_begin())

    def finish(self) -> str:
        """What was held back, where no stop text came of it."""
        return "" if self.stopped else self._give(len(self._held))

    def _may_begin(self) -> int:
        """Characters at the end that a stop text begins with."""
        longest = min(len(self._held), max(len(stop) for stop in self._stops) - 1)
        ends = (size for size in range(longest, 0, -1) if any(s.startswith(self._held[-size:]) for s in self._stops))
        return next(ends, 0)

    def _give(self, end: int) -> str:
        given, self._held = self._held[:end], self._held[end:]
        return given
