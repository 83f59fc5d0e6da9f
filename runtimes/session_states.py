"""What a session holds of its sequences, and how that is read and written: whole, or one sequence by itself."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.given import MOST_TOKENS, given_counts, given_states
from seqexport.runtimes.guard import Guard
from seqexport.runtimes.logits import likeliest
from seqexport.runtimes.manifest import StateSpec
from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.snapshot import RECENT, Checkpoints, Snapshot
from seqexport.runtimes.storage import widened

if TYPE_CHECKING:
    from seqexport.runtimes.base import Floats, Lengths, Runner, Session, States, Tokens


class SessionStates(Closing):
    """The part of a ``Session`` that its backend's memory is behind; ``Session`` says what the attributes are."""

    if_closed: ClassVar[str] = "this session is closed; start a new one"

    def __init__(self, runner: Runner, batch: int, capacity: int) -> None:
        runner.check_open()
        manifest = runner.manifest
        if batch < 1:
            raise UserError(f"batch size {batch}: expected at least 1")
        if manifest.capacity is not None and capacity > manifest.capacity:
            raise UserError(
                f"capacity of {capacity} tokens: the bundle was exported for at most {manifest.capacity}; "
                f"shorten the prompt{manifest.or_hold_more}"
            )
        self.runner, self.manifest, self.batch, self.capacity = runner, manifest, batch, capacity
        self._checkpoints: Checkpoints | None = None
        self._guard = Guard("session")
        self._begin()

    def _begin(self) -> None:
        self.lengths: Lengths = np.zeros(self.batch, np.int32)
        self._logits: NDArray[Any] = np.zeros((self.batch, self.manifest.vocab_size), np.float32)
        self._others_have_logits = False
        self.recent: Tokens = np.full((self.batch, RECENT), -1, np.int64)
        self.sampling = Sampling()
        self._generators = self.sampling.generators(self.batch)

    @property
    def logits(self) -> Floats:
        self._logits, self._others_have_logits = widened(self._logits), True
        return self._logits

    def row_logits(self, row: int) -> Floats:
        """``logits[row]``, without widening those of the others."""
        return widened(self._logits[row : row + 1])[0]

    def likeliest(self) -> tuple[Tokens, NDArray[np.bool_]]:
        """Of each sequence [batch]: its likeliest next token, and whether all of its logits are finite."""
        return likeliest(self._logits)

    @property
    def position(self) -> int:
        """Tokens of the longest sequence."""
        return int(self.lengths.max())

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._guard, self.runner.turn:
            self.check_open()
            self.runner.check_open()
            yield

    def close(self) -> None:
        """Give back its memory; once more is nothing. It cannot be used afterwards."""
        with self._guard, self.runner.turn:
            super().close()

    def read_states(self) -> States:
        """Every state by its ``past_key_values.<layer>.<kind>`` name; caches cut to the longest sequence's length."""
        with self._in_use():
            return {spec.past_name: self._read_state(spec) for spec in self.manifest.states}

    def write_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        """Take over states as ``read_states`` gives them, and the sequences' lengths; then feed before ``generate``.

        Raises:
            UserError: a state or a length is missing or does not fit, or the capacity holds less; no state has changed.
        """
        with self._in_use():
            lengths = given_counts("lengths", lengths, self.batch, MOST_TOKENS)
            self._check_capacity(lengths - self.lengths)
            self._write(self._given_states(states, lengths), lengths)
            self.lengths = lengths
            if self._checkpoints is not None:
                self._checkpoints.forget()

    def read_row(self, row: int) -> Snapshot:
        """One sequence by itself, as a session of batch 1 would have it; caches cut to its own length.

        Raises:
            UserError: there is no such row.
        """
        with self._in_use():
            self._check_row(row)
            return Snapshot(
                lengths=self.lengths[row : row + 1].copy(),
                states=self._row_states(row),
                logits=self.row_logits(row)[None].copy(),
                recent=self.recent[row : row + 1].copy(),
                sampling=self.sampling,
                generators=self._generators[row : row + 1].copy(),
            )

    def write_row(self, row: int, sequence: Snapshot) -> None:
        """Put what ``read_row`` gave in the place of one sequence; how tokens are chosen stays, and no other changes.

        Raises:
            UserError: there is no such row, a state does not fit, or it has more tokens than the capacity.
        """
        with self._in_use():
            self._check_row(row)
            lengths = self.lengths.copy()
            lengths[row] = given_counts("lengths", sequence.lengths, 1, MOST_TOKENS)[0]
            self._check_capacity(lengths - self.lengths)
            self._write_row(row, self._given_states(sequence.states, lengths[row : row + 1]), lengths)
            self.lengths = lengths
            self._take_rows(slice(row, row + 1), sequence.logits, sequence.recent)

    def copy_rows(self, row: int, other: Session, its_row: int, count: int = 1) -> None:
        """What ``write_row`` of the other session's ``read_row`` does, without leaving the device where it can.

        Args:
            other: of the same runner.
            count: sequences from there on, which become neighbours here.

        Raises:
            UserError: there is no such row, or one has more tokens than the capacity.
        """
        with other._in_use(), self._in_use():
            for session, first in ((self, row), (other, its_row)):
                session._check_row(first)
                session._check_row(first + count - 1)
            ours, theirs = slice(row, row + count), slice(its_row, its_row + count)
            lengths = self.lengths.copy()
            lengths[ours] = other.lengths[theirs]
            self._check_capacity(lengths - self.lengths)
            self._copy_rows(ours, other, theirs, lengths)
            self.lengths = lengths
            self._take_rows(ours, other._logits[theirs], other.recent[theirs])

    def _take_rows(self, rows: slice, logits: NDArray[Any], recent: Tokens) -> None:
        """What is on the host of sequences."""
        if logits.dtype != self._logits.dtype:
            logits, held = widened(logits), widened(self._logits)
            self._logits = held.astype(np.promote_types(held.dtype, logits.dtype), copy=False)
        if self._others_have_logits or not self._logits.flags.writeable:
            self._logits, self._others_have_logits = self._logits.copy(), False
        self._logits[rows], self.recent[rows] = logits, recent
        if self._checkpoints is not None:
            self._checkpoints.forget()

    def _take_logits(self, logits: NDArray[Any], fed: NDArray[np.bool_]) -> None:
        """Those after a call [batch, vocab], of the sequences that were fed; others keep theirs, or have zeros."""
        if not fed.all():
            kept = ~fed & (self.lengths > 0)
            before = self._logits
            if kept.any() and before.dtype != logits.dtype:
                before, logits = widened(before), widened(logits)
            logits = logits if logits.flags.writeable else logits.copy()
            logits[kept], logits[self.lengths == 0] = before[kept], 0
        self._logits, self._others_have_logits = logits, False

    def empty_row(self, row: int) -> None:
        """Forget one sequence's tokens, so that it takes no room; feed it none until ``write_row``.

        Raises:
            UserError: there is no such row.
        """
        with self._in_use():
            self._check_row(row)
            self.lengths[row] = 0

    def _given_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> States:
        """Raises UserError: a state does not fit, or a cache holds more than the capacity."""
        given = given_states(self.manifest.states, states, lengths)
        for spec in self.manifest.states:
            held = given[spec.past_name].shape[2] if spec.grows else 0
            if held > self.capacity:
                raise UserError(f"{spec.past_name}: {held} tokens, the session's capacity is {self.capacity}")
        return given

    def _check_row(self, row: int) -> None:
        if not 0 <= row < self.batch:
            raise UserError(f"`row` {row}: expected 0 to {self.batch - 1}, the session's batch is {self.batch}")

    def _read_row_state(self, spec: StateSpec, row: int) -> NDArray[np.floating]:
        """A state [1, ...] of one sequence; a cache has at least its own length. By way of all, unless overridden."""
        return self._read_state(spec)[row : row + 1]

    def _copy_rows(self, rows: slice, other: Session, theirs: slice, lengths: Lengths) -> None:
        """Take over sequences of another session, of ``lengths`` here; by way of the host, unless overridden."""
        for row, its_row in zip(range(rows.start, rows.stop), range(theirs.start, theirs.stop), strict=True):
            self._write_row(row, self._given_states(other._row_states(its_row), lengths[row : row + 1]), lengths)

    def _row_states(self, row: int) -> States:
        """Every state of one sequence; caches cut to its own length."""
        length = int(self.lengths[row])
        return {
            spec.past_name: _cut(self._read_row_state(spec, row), length if spec.grows else None)
            for spec in self.manifest.states
        }

    def _write_row(self, row: int, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        """Take over checked states [1, ...] of one of ``lengths``; by way of all, unless overridden."""
        whole = self.read_states()
        for spec in self.manifest.states:
            given, held = states[spec.past_name], whole[spec.past_name]
            if spec.grows and held.shape[2] < given.shape[2]:
                held = np.zeros(spec.sizes(self.batch, given.shape[2]), held.dtype)
                held[:, :, : whole[spec.past_name].shape[2]] = whole[spec.past_name]
            target = held[row : row + 1]
            (target[:, :, : given.shape[2]] if spec.grows else target)[...] = given
            whole[spec.past_name] = held
        self._write(whole, lengths)

    def _check_capacity(self, seq_lens: Lengths) -> None:
        if self.manifest.capacity is None:
            return
        longest = int((self.lengths + seq_lens).max())
        if longest > self.capacity:
            full = self.capacity >= self.manifest.capacity
            more = self.manifest.or_hold_more if full else ", or give the session a larger capacity"
            raise UserError(
                f"a sequence of {longest} tokens: this session's capacity is {self.capacity}; shorten the prompt{more}"
            )

    def _snapshot(self, *, caches: bool = True) -> Snapshot:
        specs = [spec for spec in self.manifest.states if caches or not spec.grows]
        return Snapshot(
            lengths=self.lengths.copy(),
            states={spec.past_name: self._read_state(spec) for spec in specs},
            logits=self.logits.copy(),
            recent=self.recent.copy(),
            sampling=self.sampling,
            generators=self._generators.copy(),
        )

    def _restore(self, snapshot: Snapshot) -> None:
        self._write(snapshot.states, snapshot.lengths)
        self._go_on(snapshot)

    def _go_on(self, snapshot: Snapshot) -> None:
        """Take over all but the states."""
        self.lengths, self.recent = snapshot.lengths.copy(), snapshot.recent
        self._logits, self._others_have_logits = snapshot.logits, True
        self.sampling, self._generators = snapshot.sampling, snapshot.generators.copy()

    def _copy_states(self, other: Session) -> None:
        """Take over the states of another session of this batch and capacity; by way of the host, unless overridden."""
        self._write(other.read_states(), other.lengths)

    def _clear(self, spec: StateSpec) -> None:
        """Make a state of fixed size zeros; by way of the host, unless overridden."""
        self._write({spec.past_name: np.zeros(spec.sizes(self.batch, 0), np.float32)}, np.zeros(self.batch, np.int32))

    @abstractmethod
    def _read_state(self, spec: StateSpec) -> NDArray[np.floating]:
        """A copy of a state; a cache cut to the longest sequence's length."""

    @abstractmethod
    def _write(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        """Take over checked states of sequences of ``lengths`` tokens; a cache that is not given keeps its rows."""


def _cut(state: NDArray[np.floating], length: int | None) -> NDArray[np.floating]:
    return np.array(state if length is None else state[:, :, :length])
