"""Turns tokens into text and hands it out, on a thread of its own: the model takes its next step meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from seqexport.plugins.errors import UserError
from seqexport.runtimes.closing import Closing
from seqexport.runtimes.quiet import said
from seqexport.runtimes.serve.jobs import Job
from seqexport.runtimes.serve.requests import End, Event, Failed, Piece
from seqexport.runtimes.tokenizer import BundleTokenizer

Told = tuple[Job, int | Event]
"""A token whose text nobody waits for, or an event that is whole."""

PIECE_SECONDS = 4e-4
"""Between two pieces of text, on average. One costs the thread that sends them about a third of it, and all threads of
Python share one lock: with many streams a piece is what came of several tokens."""


class Teller(Closing):
    """What the engine's thread gives it reaches each request in that order.

    A request on whose tokens the tokenizer fails is told so and cancelled.
    """

    def __init__(self, tokenizer: BundleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._told: list[Told] = []
        self._changed = threading.Condition()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="seqexport-teller", daemon=True)
        self._thread.start()

    def tell(self, told: Sequence[Told]) -> None:
        """Does not wait."""
        if told:
            with self._changed:
                self._told += told
                self._changed.notify()

    def _close(self) -> None:
        """All that was told is handed out first."""
        with self._changed:
            self._ends.set()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while told := self._take():
            began = time.monotonic()
            pieces = self._hand_out(told)
            self._ends.wait(pieces * PIECE_SECONDS - (time.monotonic() - began))

    def _take(self) -> list[Told]:
        """All that is here, at least one; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._told or self._ends.is_set())
            told, self._told = self._told, []
            return told

    def _hand_out(self, told: Sequence[Told]) -> int:
        """Gives the number of requests that something was handed to."""
        by_job: dict[Job, list[int | Event]] = {}
        for job, what in told:
            by_job.setdefault(job, []).append(what)
        tokens = {job: [what for what in every if isinstance(what, int)] for job, every in by_job.items()}
        speaking = [job for job, its in tokens.items() if its]
        texts = self._tokenizer.push([job.answer.text.stream for job in speaking], [tokens[job] for job in speaking])
        pieces = dict(zip(speaking, texts, strict=True))
        for job, every in by_job.items():
            try:
                _deliver(job, pieces.get(job, ""), [what for what in every if not isinstance(what, int)])
            except Exception as error:  # this request's own: others go on
                job.tell(Failed(said(error)))
                job.cancel()
        return len(by_job)


def _deliver(job: Job, text: str | UserError, events: Sequence[Event]) -> None:
    """Of a request whose text is made here, any event comes after its tokens."""
    if isinstance(text, UserError):
        raise text
    if events and isinstance(events[-1], End):
        text += job.answer.text.finish()
    if text:
        job.tell(Piece(text))
    for event in events:
        job.tell(event)
