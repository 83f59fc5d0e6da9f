"""One of the engine's sequences, and the answer that it gives: what the front does between a request and its texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqexport.plugins.errors import UserError
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.serve.answer import Answer
from seqexport.runtimes.serve.requests import Reason, Request
from seqexport.runtimes.tokenizer import BundleTokenizer
from seqexport.runtimes.triton.config import Sizes


class Call(NamedTuple):
    """One call of the engine with a batch of one sequence: its inputs by name, and where in the sequence it stands."""

    inputs: dict[str, NDArray[np.integer]]
    starts: bool
    ends: bool


Infer = Callable[[Call], NDArray[np.floating]]
"""Gives the engine's logits [1, tokens or 1, vocab]."""


class EngineSequence(Closing):
    """Tokens are fed, and the states of what was fed are Triton's, until it is closed.

    Args:
        infer: calls the engine, always of this sequence.
        names: of the inputs that the engine has.
        chunk: the most tokens of a call.
    """

    def __init__(self, infer: Infer, names: frozenset[str], chunk: int) -> None:
        self._infer, self._names, self._chunk = infer, names, chunk
        self._length, self._begun, self._ended = 0, False, False

    def feed(self, tokens: Sequence[int], *, ends: bool) -> NDArray[np.floating]:
        """Logits [vocab] after tokens, at least one; ``ends``: nothing more will be fed."""
        for start in range(0, len(tokens), self._chunk):
            part = tokens[start : start + self._chunk]
            logits = self._call(part, len(part), ends=ends and start + len(part) == len(tokens))
        return logits[0, -1]

    def _call(self, tokens: Sequence[int], valid: int, *, ends: bool) -> NDArray[np.floating]:
        inputs: dict[str, NDArray[np.integer]] = {
            "input_ids": np.array([tokens], np.int64),
            "seq_lens": np.array([[valid]], np.int32),
            "past_lens": np.array([[self._length]], np.int32),
        }
        starts, self._begun, self._ended = not self._begun, True, ends
        self._length += valid
        return self._infer(Call({name: inputs[name] for name in inputs.keys() & self._names}, starts, ends))

    def _close(self) -> None:
        """Give the engine's slot back, by a call that reads nothing."""
        if self._begun and not self._ended:
            self._call([0], 0, ends=True)


def texts(
    request: Request, tokenizer: BundleTokenizer, ends: Sequence[int], sizes: Sizes, sequence: EngineSequence
) -> Iterator[tuple[str, Reason | None]]:
    """Pieces of text as they become certain, some empty; the last with why it is the last.

    Raises:
        UserError: the prompt is empty, or leaves no room for an answer.
    """
    room = sizes.max_tokens - len(request.tokens)
    if not request.tokens or room < 1:
        raise UserError(
            f"the prompt has {len(request.tokens)} tokens: expected 1 to {sizes.max_tokens - 1}, as prompt and answer "
            f"may have {sizes.max_tokens} together"
        )
    most = room if request.max_new_tokens is None else min(room, request.max_new_tokens)
    answer = Answer(request, tokenizer.stream(after=request.tokens), ends, room)
    fed = list(request.tokens)
    sampling, generators = request.sampling, request.sampling.generators(1)
    while answer.end is None:
        logits = sequence.feed(fed, ends=len(answer.tokens) + 1 == most).astype(np.float32)
        fed = [sampling.choose(logits, generators, 0)]
        yield answer.say(fed[0]), answer.end
