"""Beginnings of prompts that were read before, so that a system prompt is read once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from seqexport.runtimes.base import Tokens
from seqexport.runtimes.snapshot import Snapshot


class Prefixes:
    """What a model remembered after tokens that it read from the start.

    The least recently used go where all would take more than ``max_bytes``.

    Attributes:
        nbytes: of all that is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._kept: OrderedDict[bytes, Snapshot] = OrderedDict()
        self._lengths: dict[int, int] = {}

    def keep(self, tokens: Tokens, snapshot: Snapshot) -> None:
        """What came of reading ``tokens`` [L] from the start."""
        key = _key(tokens)
        if key in self._kept:
            self._kept.move_to_end(key)
        elif self.takes(snapshot.nbytes):
            self._kept[key] = snapshot
            self.nbytes += snapshot.nbytes
            self._lengths[len(tokens)] = self._lengths.get(len(tokens), 0) + 1
            while self.nbytes > self.max_bytes:
                self._forget_oldest()

    def takes(self, nbytes: int) -> bool:
        """Whether one of so many bytes is worth its copy: at least four have room."""
        return 4 * nbytes <= self.max_bytes

    def longest(self, tokens: Tokens) -> Snapshot | None:
        """What is known of the longest beginning of ``tokens`` [L], all of them at most."""
        found, digest, hashed = None, hashlib.sha256(), 0
        for length in sorted(each for each in self._lengths if each <= len(tokens)):
            digest.update(tokens[hashed:length].tobytes())
            hashed = length
            if (key := digest.digest()) in self._kept:
                found = key
        if found is None:
            return None
        self._kept.move_to_end(found)
        return self._kept[found]

    def _forget_oldest(self) -> None:
        _, snapshot = self._kept.popitem(last=False)
        self.nbytes -= snapshot.nbytes
        length = int(snapshot.lengths[0])
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]


def _key(tokens: Tokens) -> bytes:
    return hashlib.sha256(tokens.tobytes()).digest()
