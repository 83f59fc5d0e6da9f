"""What the engine is asked, and what it answers piece by piece. No web in here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.sampling import Sampling
from seqexport.runtimes.snapshot import Snapshot


@dataclass(frozen=True)
class Limits:
    """What one server takes.

    Attributes:
        max_batch: sequences that run together.
        max_queue: requests that wait for a place among them.
        max_tokens: of a sequence, its prompt and its answer together.
        max_seconds: of a request, from its arrival; what came until then is its answer.
        chunk: tokens of prompts that are read between two steps of the running batch at least; more, where they take no
            longer than a step. What comes of each so many is remembered.
        prefix_bytes: of what is remembered of the beginnings of prompts.
    """

    max_batch: int = 64
    max_queue: int = 256
    max_tokens: int = 4096
    max_seconds: float = 600.0
    chunk: int = 64
    prefix_bytes: int = 256 << 20


@dataclass(frozen=True)
class Request:
    """A prompt to continue.

    Attributes:
        tokens: of the prompt; at least one, unless it goes on after ``start``.
        max_new_tokens: stop after so many; None: as many as there is room for.
        sampling: how to choose, with a generator of its own.
        stop: texts of which the first to appear ends the answer before it.
        logprobs: how many of the likeliest tokens to tell with each; None: no log probabilities at all.
        start: the sequence that the prompt continues; None: an empty one.
        keep: give what the sequence is at the end, after every token that was given, with its ``End``.
        talk: the answer is likely to be the beginning of a later prompt.
    """

    tokens: Sequence[int]
    max_new_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    start: Snapshot | None = None
    keep: bool = False
    talk: bool = False


@dataclass(frozen=True)
class Chosen:
    """A token of an answer: its natural log probability before temperature, and the likeliest with theirs."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]

    @classmethod
    def among(cls, logits: NDArray[np.float32], token: int, count: int) -> Chosen:
        """A token with the ``count`` likeliest, by logits [vocab]."""
        shifted = logits.astype(np.float64) - logits.max()
        logprobs = shifted - math.log(np.exp(shifted).sum())
        top = np.argsort(-logits, kind="stable")[:count].tolist()
        return cls(token, float(logprobs[token]), tuple((each, float(logprobs[each])) for each in top))


@dataclass(frozen=True)
class Piece:
    """Text that is certain, maybe none, and the token that was chosen where log probabilities were asked for."""

    text: str
    chosen: Chosen | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens of a request: read, of which ``reused`` were known from other requests, and answered."""

    prompt: int
    reused: int
    answer: int


Reason = Literal["stop", "length"]


@dataclass(frozen=True)
class End:
    """The answer is whole: at an end-of-text token or a stop text (``stop``), or at a limit (``length``)."""

    reason: Reason
    usage: Usage
    kept: Snapshot | None = None


@dataclass(frozen=True)
class Failed:
    """There is no answer, or no more of it. ``busy``: not for anything in the request itself."""

    message: str
    busy: bool = False


Event = Piece | End | Failed
Deliver = Callable[[Event], None]
"""Called in the engine's thread: it may not wait. The last event is an End or a Failed."""
