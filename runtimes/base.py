"""What every backend offers: a Runner is an opened bundle, a Session the states of one batch on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.manifest import Manifest

Tokens = NDArray[np.int64]
Lengths = NDArray[np.int32]
Floats = NDArray[np.float32]
States = dict[str, NDArray[np.floating]]


class Closing(ABC):
    """Something to close when done, or to use in a ``with`` statement."""

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds. It cannot be used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class Session(Closing):
    """The states of a batch of sequences, from empty; they may differ in length.

    Attributes:
        batch: how many sequences.
        capacity: the most tokens that a sequence may have.
        lengths: int32[batch], tokens that each sequence has now.
    """

    def __init__(self, manifest: Manifest, batch: int, capacity: int) -> None:
        if batch < 1:
            raise UserError(f"batch size {batch}: expected at least 1")
        if manifest.capacity is not None and capacity > manifest.capacity:
            raise UserError(
                f"capacity of {capacity} tokens: the bundle was exported for at most {manifest.capacity}; "
                f"shorten the prompt{manifest.or_hold_more}"
            )
        self.manifest, self.batch, self.capacity = manifest, batch, capacity
        self.lengths: Lengths = np.zeros(batch, np.int32)

    def prefill(self, tokens: Tokens, seq_lens: Lengths | None = None) -> Floats:
        """Feed tokens [batch, L], of which the first ``seq_lens[b]`` of sequence b are valid; any L, again and again.

        Returns:
            float32 logits: [batch, 1, vocab] at each sequence's last valid token, or [batch, L, vocab] where the bundle
            was exported with ``logits="all"``.

        Raises:
            UserError: no tokens, tokens outside the vocabulary, or more than the capacity; no state has changed.
        """
        tokens = np.ascontiguousarray(tokens, np.int64)
        seq_lens = self._check(tokens, seq_lens)
        logits = self._run(tokens, seq_lens)
        self.lengths = self.lengths + seq_lens
        return logits

    def step(self, tokens: Tokens) -> Floats:
        """Feed one token a sequence, int64 [batch]; gives float32 logits [batch, vocab]."""
        return self.prefill(np.asarray(tokens, np.int64).reshape(self.batch, 1))[:, -1]

    def _check(self, tokens: Tokens, seq_lens: Lengths | None) -> Lengths:
        if tokens.ndim != 2 or tokens.shape[0] != self.batch or tokens.shape[1] == 0:
            raise UserError(f"tokens of shape {tokens.shape}: expected [{self.batch}, at least 1]; the prompt is empty")
        length = tokens.shape[1]
        if seq_lens is None:
            seq_lens = np.full(self.batch, length, np.int32)
        else:
            seq_lens = np.asarray(seq_lens, np.int32)
            if seq_lens.shape != (self.batch,) or seq_lens.min() < 0 or seq_lens.max() > length:
                raise UserError(f"seq_lens {seq_lens.tolist()}: expected {self.batch} values from 0 to {length}")
        if tokens.view(np.uint64).max() >= self.manifest.vocab_size:  # as which a negative one is huge
            bad = tokens[(tokens < 0) | (tokens >= self.manifest.vocab_size)][0]
            raise UserError(f"token {bad}: outside the vocabulary of {self.manifest.vocab_size}")
        self._check_capacity(seq_lens)
        return seq_lens

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

    def _check_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> Lengths:
        """The lengths as int32[batch].

        Raises:
            UserError: the lengths, or the caches themselves, are beyond the capacity.
        """
        lengths = np.asarray(lengths, np.int32)
        self._check_capacity(lengths - self.lengths)
        for spec in self.manifest.states:
            held = states[spec.past_name].shape[2] if spec.grows else 0
            if held > self.capacity:
                raise UserError(f"{spec.past_name}: {held} tokens, the session's capacity is {self.capacity}")
        return lengths

    @abstractmethod
    def _run(self, tokens: Tokens, seq_lens: Lengths) -> Floats:
        """Run checked inputs and keep the new states."""

    @abstractmethod
    def read_states(self) -> States:
        """Every state by its ``past_key_values.<layer>.<kind>`` name; caches cut to the longest sequence's length."""

    @abstractmethod
    def write_states(self, states: Mapping[str, NDArray[np.floating]], lengths: Lengths) -> None:
        """Take over states as ``read_states`` gives them, and the sequences' lengths."""


class Runner(Closing):
    """A bundle opened on one backend. Sessions share its weights."""

    backend: ClassVar[str]

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.manifest = bundle, bundle.manifest

    @property
    @abstractmethod
    def description(self) -> str:
        """Backend, version, device and what computes our ops, for reports."""

    @abstractmethod
    def session(self, batch: int = 1, capacity: int | None = None) -> Session:
        """Empty states for a batch; ``capacity`` defaults to all that the bundle allows."""
