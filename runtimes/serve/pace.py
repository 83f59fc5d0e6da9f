"""How much is read of prompts between two steps of those that are being answered."""

from __future__ import annotations

MOST = 2048
KEPT = 0.9
"""Of what is known of earlier reads, at each."""

LEAST_SHARE = 0.02
"""Of what a read costs, that its tokens do at least."""


class Pace:
    """Tokens that take about as long as a step, so that reading at most doubles the time between two tokens.

    A read costs so much for each token, and so much by itself, which on a GPU is often more than a step. It is then as
    long again as what it costs by itself: shorter ones would read prompts slower and leave less time to the others.

    Args:
        least: tokens, however long they take.

    Attributes:
        most: tokens, however short they take.
    """

    def __init__(self, least: int) -> None:
        self._least, self.most = least, max(MOST, least)
        self._step = 0.0
        self._count = self._x = self._y = self._xx = self._xy = 0.0

    def stepped(self, seconds: float) -> None:
        """What the last step took."""
        self._step = seconds

    def read(self, tokens: int, seconds: float) -> None:
        """What the last read took."""
        seen = (1.0, tokens, seconds, tokens * tokens, tokens * seconds)
        known = (self._count, self._x, self._y, self._xx, self._xy)
        self._count, self._x, self._y, self._xx, self._xy = (KEPT * a + b for a, b in zip(known, seen, strict=True))

    @property
    def tokens(self) -> int:
        """To read before the next step."""
        if not self._y:
            return self._least
        mean, slope = self._y / self._x, self._slope()
        if slope is None:  # twice as many tell more
            return self._bounded(max(self._step / mean, 2 * self._x / self._count))
        each = min(max(slope, LEAST_SHARE * mean), mean)
        alone = (self._y - each * self._x) / self._count
        return self._bounded((max(self._step, 2 * alone) - alone) / each)

    def _bounded(self, tokens: float) -> int:
        return round(min(max(tokens, self._least), self.most))

    def _slope(self) -> float | None:
        """Seconds of a token, by the line through the reads; None where all had one size."""
        spread = self._count * self._xx - self._x * self._x
        if spread <= 1e-6 * self._x * self._x:
            return None
        return (self._count * self._xy - self._x * self._y) / spread
