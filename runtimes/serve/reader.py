"""Reads prompts beside the running batch: a long one in pieces, or several that are short in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seqexport.runtimes.base import Runner, Session, Tokens
from seqexport.runtimes.serve.batch import power_of_two
from seqexport.runtimes.snapshot import Snapshot

TOGETHER = 16
"""Prompts that one call may read; a quarter of what the runner takes, where that is more."""


class Reader:
    """Sessions of 1, 2, 4, ... sequences, of which the smallest that has a row for each prompt is used.

    Args:
        capacity: the most tokens that a row may have; None where states do not grow.
        most: rows that the runner takes.

    Attributes:
        most: prompts that can be read together.
        session: of the prompts that are being read, in their order; None before the first.
    """

    def __init__(self, runner: Runner, capacity: int | None, most: int) -> None:
        self._runner, self._capacity = runner, capacity
        self._sessions: dict[int, Session] = {}
        self.most = 1 << (max(min(most, TOGETHER), most // 4).bit_length() - 1)
        self.session: Session | None = None

    def begin(self, starts: Sequence[Snapshot | None]) -> None:
        """A row for each prompt, at its beginning or after what is known of it."""
        size = power_of_two(len(starts))
        if size not in self._sessions:
            self._sessions[size] = self._runner.session(size, self._capacity)
        self.session = self._sessions[size]
        self.session.reset()
        for row, start in enumerate(starts):
            if start is not None:
                self.session.write_row(row, start)

    def read(self, parts: Sequence[Tokens]) -> int:
        """The next tokens of each prompt, which may be none; gives how many the call took, with those of padding."""
        assert self.session is not None
        width = max(len(part) for part in parts)
        tokens, lens = np.zeros((self.session.batch, width), np.int64), np.zeros(self.session.batch, np.int32)
        for row, part in enumerate(parts):
            tokens[row, : len(part)], lens[row] = part, len(part)
        if width:
            self.session.feed(tokens, lens)
        return int(tokens.size)

    def close(self) -> None:
        """Give back all memory; the next prompt takes new."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self.session = None
