"""How much is read of prompts between two steps of those that are being answered."""

from __future__ import annotations

MOST = 1024


class Pace:
    """Tokens that take about as long as a step, so that reading at most doubles the time between two tokens.

    Args:
        least: tokens, however long they take.

    Attributes:
        tokens: to read before the next step.
    """

    def __init__(self, least: int) -> None:
        self.tokens = self._least = least
        self._step = 0.0

    def stepped(self, seconds: float) -> None:
        """What the last step took."""
        self._step = seconds

    def read(self, seconds: float) -> None:
        """What all of ``tokens`` took."""
        if seconds < self._step / 2:
            self.tokens = min(2 * self.tokens, max(MOST, self._least))
        elif seconds > self._step:
            self.tokens = max(self.tokens // 2, self._least)
