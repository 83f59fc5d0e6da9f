"""One answer as it grows: its tokens and its end, and its text."""

from __future__ import annotations

from collections.abc import Sequence

from seqexport.runtimes.serve.requests import Reason, Request
from seqexport.runtimes.serve.stops import StopText
from seqexport.runtimes.tokenizer import TextStream


class AnswerText:
    """The text of an answer, as far as it is certain.

    Attributes:
        stream: of its tokens, before stop texts are looked for.
    """

    def __init__(self, stream: TextStream, stops: Sequence[str]) -> None:
        self.stream, self._stops = stream, StopText(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop text came."""
        return self._stops.stopped

    def push(self, token: int) -> str:
        """The text that became certain with this token."""
        return self._stops.push(self.stream.push(token))

    def finish(self) -> str:
        """The rest of the text; once more gives none."""
        return self._stops.push(self.stream.finish()) + self._stops.finish()


class Answer:
    """The tokens of an answer, and why it ends.

    Attributes:
        tokens: so far; one that ends a text is not among them.
        end: why it ended; None as long as it goes on.
        text: of the tokens, which ``say`` makes, or whoever is given the tokens that were added.
    """

    def __init__(self, request: Request, stream: TextStream, ends: Sequence[int], room: int) -> None:
        """``ends``: tokens of which any ends a text. ``room``: the most tokens that the answer may have."""
        self._ends = frozenset(ends)
        self._most = room if request.max_new_tokens is None else min(room, request.max_new_tokens)
        self.tokens: list[int] = []
        self.end: Reason | None = None
        self.text = AnswerText(stream, request.stop)

    def ends_with(self, token: int) -> bool:
        """Whether its last token is this one; not so for one that ended the text and is no part of it."""
        return self.tokens[-1:] == [token]

    def add(self, token: int) -> bool:
        """Take the next token, which may set ``end``; whether it is part of the answer."""
        if token in self._ends:
            self.end = "stop"
            return False
        self.tokens.append(token)
        if len(self.tokens) >= self._most:
            self.end = "length"
        return True

    def say(self, token: int) -> str:
        """``add`` it; gives the text that is certain now, which may set ``end`` too."""
        text = self.text.push(token) if self.add(token) else ""
        if self.end is not None:
            text += self.text.finish()
        if self.text.stopped:
            self.end = "stop"
        return text
