"""What every backend offers: a Runner is an opened bundle, a Session the states of one batch on it."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes import chunks
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.finite import check_logits
from seqexport.runtimes.given import given_counts, given_tokens
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.session_file import read_session, write_session
from seqexport.runtimes.session_states import SessionStates
from seqexport.runtimes.snapshot import Checkpoints, newest
from seqexport.runtimes.storage import widened

Tokens = NDArray[np.int64]
Lengths = NDArray[np.int32]
Floats = NDArray[np.float32]
States = dict[str, NDArray[np.floating]]


class Session(SessionStates):
    """The states of a batch of sequences, from empty; they may differ in length.

    One thread at a time may use it: a call while another thread is in one is refused, and nothing is changed.

    Attributes:
        batch: how many sequences.
        capacity: the most tokens that a sequence may have.
        lengths: int32[batch], tokens that each sequence has now.
        logits: float32[batch, vocab] after the last token of each sequence; zeros where it has none.
        recent: int64[batch, 32], the last tokens of each sequence, the newest at the end; -1 where there is none.
        sampling: how ``generate`` chooses; the likeliest tokens until it is told otherwise.
    """

    def prefill(self, tokens: Tokens, seq_lens: Lengths | None = None) -> Floats:
        """Feed tokens [batch, L], of which the first ``seq_lens[b]`` of sequence b are valid; any L, again and again.

        Returns:
            float32 logits: [batch, 1, vocab] at each sequence's last valid token, or [batch, L, vocab] where the bundle
            was exported with ``logits="all"``.

        Raises:
            UserError: no tokens, tokens outside the vocabulary, or more than the capacity; no state has changed.
        """
        logits, self._others_have_logits = self._fed(tokens, seq_lens), True
        return widened(logits)

    def feed(self, tokens: Tokens, seq_lens: Lengths | None = None) -> None:
        """As ``prefill``, but gives nothing: what a caller does not look at of the logits is not widened to float32."""
        self._fed(tokens, seq_lens)

    def _fed(self, tokens: Tokens, seq_lens: Lengths | None) -> NDArray[Any]:
        with self._in_use():
            tokens = given_tokens(tokens, self.batch, self.manifest.vocab_size)
            seq_lens = self._check_counts(tokens, seq_lens)
            if self._checkpoints is None:
                return self._read(tokens, seq_lens)
            whole = self.manifest.logits == "all"
            parts = chunks.split(tokens, seq_lens, self._checkpoints.every, whole=whole)
            return chunks.merge(parts, [self._read(part.tokens, part.seq_lens) for part in parts], whole=whole)

    def _read(self, tokens: Tokens, seq_lens: Lengths) -> NDArray[Any]:
        logits = self._run(tokens, seq_lens)
        self.lengths = self.lengths + seq_lens
        last = logits[:, 0] if logits.shape[1] == 1 else logits[np.arange(self.batch), np.maximum(seq_lens, 1) - 1]
        self._take_logits(last, fed=seq_lens > 0)
        self.recent = newest(self.recent, tokens, seq_lens)
        if self._checkpoints is not None and self._checkpoints.due(self.position):
            self._checkpoints.add(self._snapshot(caches=False))
        return logits

    def step(self, tokens: Tokens) -> Floats:
        """Feed one token a sequence, int64 [batch]; gives float32 logits [batch, vocab]."""
        return self.prefill(np.reshape(tokens, (-1, 1)))[:, -1]

    def generate(
        self, max_new_tokens: int = 128, sampling: Sampling | None = None, *, read_last: bool = True
    ) -> Iterator[Tokens]:
        """Go on after what was read, one token a sequence at a time, as long as any sequence goes on.

        Each token is read before the next is chosen, and the last one when the iteration ends or is left: what comes
        next, a prompt or more of this, comes after every token that was given.

        Args:
            max_new_tokens: stop after so many.
            sampling: how to choose; None: as before, and with the random numbers that would have come.
            read_last: False leaves the last token unread, for a session that does not go on.

        Returns:
            int64[batch] each time; -1 for a sequence that has ended: with an end-of-text token, which is neither given
            nor read, or with a full cache. The token that a cache has no room for is given with ``read_last=False``.

        Raises:
            UserError: a sequence has no token yet, ``max_new_tokens`` is below 1, or the logits are not finite.
        """
        if max_new_tokens < 1:
            raise UserError(f"`max_new_tokens` {max_new_tokens}: expected at least 1")
        with self._in_use():
            if not self.lengths.all():
                raise UserError("the prompt is empty: give at least one token of text")
            if sampling is not None:
                self.sampling, self._generators = sampling, sampling.generators(self.batch)
        return self._generated(max_new_tokens, read_last)

    def _generated(self, max_new_tokens: int, read_last: bool) -> Iterator[Tokens]:
        alive = np.ones(self.batch, bool)
        for made in range(1, max_new_tokens + 1):
            with self._in_use():
                chosen = self._choose(alive & self._has_room() if read_last else alive)
                alive = (chosen >= 0) & self._has_room()
            if (chosen < 0).all():
                return
            goes_on = False
            try:
                yield chosen.copy()
                goes_on = made < max_new_tokens
            finally:
                if alive.any() and (goes_on or read_last):
                    self.prefill(np.where(alive, chosen, 0)[:, None], alive.astype(np.int32))

    def _has_room(self) -> NDArray[np.bool_]:
        return np.ones(self.batch, bool) if self.manifest.capacity is None else self.lengths < self.capacity

    def _choose(self, alive: NDArray[np.bool_]) -> Tokens:
        chosen = np.full(self.batch, -1, np.int64)
        for row in np.flatnonzero(alive).tolist():
            check_logits(self.runner, self.logits[row], f"sequence {row + 1} after {self.lengths[row]} tokens")
            token = self.sampling.choose(self.logits[row], self._generators, row)
            if token not in self.manifest.eos_token_ids:
                chosen[row] = token
        return chosen

    def keep(self, every: int, max_bytes: int) -> None:
        """From now on keep checkpoints to ``rewind`` to.

        Args:
            every: tokens from one to the next, at least; longer prompts are read in pieces of so many.
            max_bytes: of all of them; the oldest go first.

        Raises:
            UserError: ``every`` is below 1, or not one checkpoint is so small.
        """
        if every < 1:
            raise UserError(f"`every` {every}: expected at least 1")
        with self._in_use():
            needed = self._snapshot(caches=False).nbytes
            if needed > max_bytes:
                raise UserError(f"`max_bytes` {max_bytes}: a checkpoint of this session takes {needed}; give more")
            self._checkpoints = Checkpoints(every, max_bytes)

    def rewind(self, tokens: int) -> int:
        """Go back to the newest checkpoint at which no sequence had more than ``tokens`` tokens, or else to the start.

        Returns:
            Tokens that the longest sequence has now; what came after them is to be fed again.

        Raises:
            UserError: it never had so many tokens.
        """
        with self._in_use():
            if not 0 <= tokens <= self.position:
                raise UserError(f"`tokens` {tokens}: expected 0 to {self.position}, which the session has now")
            if tokens < self.position:
                snapshot = self._checkpoints.back_to(tokens) if self._checkpoints is not None else None
                if snapshot is None:
                    self.reset()
                else:
                    self._restore(snapshot)
            return self.position

    def reset(self) -> None:
        """Make it empty again, as a new session is; what ``keep`` was told stays."""
        with self._in_use():
            for spec in self.manifest.states:
                if not spec.grows:
                    self._clear(spec)
            self._begin()
            if self._checkpoints is not None:
                self._checkpoints.forget()

    def fork(self) -> Session:
        """A second session that goes on from here on its own, with the same random numbers and checkpoints."""
        with self._in_use():
            other = self.runner.session(self.batch, self.capacity)
            other._copy_states(self)
            other._go_on(self._snapshot(caches=False))
            other._checkpoints = self._checkpoints.copy() if self._checkpoints is not None else None
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that the session is, but for its checkpoints, to a file that ``Model.restore`` reads.

        The file appears whole or not at all, and what it replaces stays until then.

        Raises:
            UserError: it cannot be written.
        """
        with self._in_use():
            snapshot = self._snapshot()
        write_session(Path(path), self.runner.bundle, snapshot)

    def _check_counts(self, tokens: Tokens, seq_lens: Lengths | None) -> Lengths:
        length = tokens.shape[1]
        counts = np.full(self.batch, length) if seq_lens is None else seq_lens
        seq_lens = given_counts("seq_lens", counts, self.batch, length)
        self._check_capacity(seq_lens)
        return seq_lens

    @abstractmethod
    def _run(self, tokens: Tokens, seq_lens: Lengths) -> NDArray[Any]:
        """Run checked inputs and keep the new states; gives the logits in any dtype of floats, as they come."""


class Runner(Closing):
    """A bundle opened on one backend. Sessions share its weights.

    Attributes:
        turn: held by the thread in whose session something is done; others wait where sessions share more than weights.
    """

    backend: ClassVar[str]

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest
        self.turn: AbstractContextManager[Any] = nullcontext()

    @property
    @abstractmethod
    def description(self) -> str:
        """Backend, version, device and what computes our ops, for reports."""

    @abstractmethod
    def session(self, batch: int = 1, capacity: int | None = None) -> Session:
        """Empty states for a batch; ``capacity`` defaults to all that the bundle allows."""

    def restore(self, path: str | os.PathLike[str], capacity: int | None = None) -> Session:
        """A session that goes on where one was saved, on this backend or another.

        Raises:
            UserError: the file cannot be read, is damaged, or was saved from another model or in another dtype; or the
                capacity does not hold its tokens.
        """
        snapshot = read_session(Path(path), self.bundle)
        session = self.session(len(snapshot.lengths), capacity)
        try:
            session._check_capacity(snapshot.lengths)
            session._restore(snapshot)
        except UserError:
            session.close()
            raise
        return session
