"""What a session is at one moment, and the moments that it can go back to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.sampling import Generators, Sampling

if TYPE_CHECKING:
    from seqexport.runtimes.base import Floats, Lengths, Tokens

RECENT = 32
"""Tokens of a sequence that a session remembers: text goes on rightly only after them."""


def newest(recent: Tokens, tokens: Tokens, seq_lens: Lengths) -> Tokens:
    """The last RECENT tokens of each sequence after ``seq_lens`` more of [batch, L]."""
    joined = np.concatenate([recent, tokens], axis=1)
    if tokens.shape[1] == 1 and seq_lens.all():
        return joined[:, 1:]
    return np.take_along_axis(joined, seq_lens[:, None] + np.arange(RECENT), axis=1)


@dataclass(frozen=True)
class Snapshot:
    """A session at one moment. Its arrays are its own.

    Attributes:
        lengths: int32[batch], tokens that each sequence has.
        states: by their ``past_name``; without caches where only their rows up to ``lengths`` are meant.
        logits: float32[batch, vocab], after each sequence's last token.
        recent: int64[batch, RECENT], its last tokens, the newest at the end; -1 where there is none.
        sampling, generators: how tokens are chosen, and the random numbers to come.
    """

    lengths: Lengths
    states: Mapping[str, NDArray[np.floating]]
    logits: Floats
    recent: Tokens
    sampling: Sampling
    generators: Generators

    @property
    def position(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max())

    @property
    def nbytes(self) -> int:
        own = self.lengths.nbytes + self.logits.nbytes + self.recent.nbytes + self.generators.nbytes
        return own + sum(state.nbytes for state in self.states.values())


class Checkpoints:
    """Snapshots that a session took as it went on; the oldest go where they would take more than ``max_bytes``."""

    def __init__(self, every: int, max_bytes: int) -> None:
        self.every, self.max_bytes = every, max_bytes
        self._kept: list[Snapshot] = []

    def due(self, position: int) -> bool:
        """Whether ``every`` tokens came after the newest."""
        return position - (self._kept[-1].position if self._kept else 0) >= self.every

    def add(self, snapshot: Snapshot) -> None:
        self._kept.append(snapshot)
        while sum(kept.nbytes for kept in self._kept) > self.max_bytes:
            self._kept.pop(0)

    def back_to(self, tokens: int) -> Snapshot | None:
        """The newest of at most so many tokens; those after it are forgotten."""
        while self._kept and self._kept[-1].position > tokens:
            self._kept.pop()
        return self._kept[-1] if self._kept else None

    def forget(self) -> None:
        """All of them."""
        self._kept.clear()

    def copy(self) -> Checkpoints:
        other = Checkpoints(self.every, self.max_bytes)
        other._kept = self._kept.copy()
        return other
