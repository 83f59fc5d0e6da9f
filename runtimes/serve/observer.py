"""Who watches an engine."""

from __future__ import annotations

from collections.abc import Sequence


class Observer:
    """Is told what happens, in the engine's thread; this one forgets it."""

    def first_token(self, seconds: float) -> None:
        """From a request's arrival."""

    def next_tokens(self, seconds: Sequence[float]) -> None:
        """Of all sequences that chose one in a step: from the token before it."""

    def read(self, tokens: int, reused: int) -> None:
        """A prompt of so many tokens, of which ``reused`` were known from a request before."""

    def stepped(self, rows: int) -> None:
        """So many sequences read a token each."""
