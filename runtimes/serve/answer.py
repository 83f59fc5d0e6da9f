"""One answer as it grows: a token from logits, its text, its end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqexport.runtimes.serve.requests import Chosen, Piece, Reason, Request
from seqexport.runtimes.serve.stops import StopText
from seqexport.runtimes.tokenizer import TextStream


class Answer:
    """Chooses as ``Session.generate`` does with the same seed.

    Attributes:
        tokens: so far; one that ends a text is not among them.
        end: why it ended; None as long as it goes on.
    """

    def __init__(self, request: Request, stream: TextStream, ends: Sequence[int], room: int) -> None:
        """``ends``: tokens of which any ends a text. ``room``: the most tokens that the answer may have."""
        self._request, self._stream, self._ends = request, stream, ends
        self._most = room if request.max_new_tokens is None else min(room, request.max_new_tokens)
        self._stops = StopText(request.stop)
        self._generators = request.sampling.generators(1)
        self.tokens: list[int] = []
        self.end: Reason | None = None

    @property
    def made(self) -> int:
        return len(self.tokens)

    def choose(self, logits: NDArray[np.float32]) -> tuple[int, Piece]:
        """The next token after logits [vocab], and the text that became certain; may set ``end``."""
        token = self._request.sampling.choose(logits, self._generators, 0)
        if token in self._ends:
            self.end = "stop"
            return token, Piece(self._rest())
        self.tokens.append(token)
        text = self._stops.push(self._stream.push(token))
        if self._stops.stopped:
            self.end = "stop"
        elif self.made >= self._most:
            text += self._rest()
            self.end = "stop" if self._stops.stopped else "length"
        return token, Piece(text, self._told(logits, token))

    def cut(self) -> Piece:
        """End it here, with the text that was held back."""
        self.end = "length"
        return Piece(self._rest())

    def _rest(self) -> str:
        return self._stops.push(self._stream.finish()) + self._stops.finish()

    def _told(self, logits: NDArray[np.float32], token: int) -> Chosen | None:
        count = self._request.logprobs
        if count is None:
            return None
        shifted = logits.astype(np.float64) - logits.max()
        logprobs = shifted - math.log(np.exp(shifted).sum())
        top = np.argsort(-logits, kind="stable")[:count].tolist()
        return Chosen(token, float(logprobs[token]), tuple((each, float(logprobs[each])) for each in top))
