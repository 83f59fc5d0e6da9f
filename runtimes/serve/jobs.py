"""A request on its way through the engine, and why there may be no place for one."""

from __future__ import annotations

import time

import numpy as np

from seqexport.runtimes.serve.answer import Answer
from seqexport.runtimes.serve.requests import Deliver, End, Event, Request, Usage
from seqexport.runtimes.snapshot import Snapshot


class Busy(Exception):
    """No place for a request now.

    Attributes:
        stopping: and none later: the engine takes no more.
        seconds: after which to ask again.
    """

    def __init__(self, message: str, *, stopping: bool, seconds: int) -> None:
        super().__init__(message)
        self.stopping, self.seconds = stopping, seconds


class Job:
    """A request on its way. Its caller may ``cancel`` it from any thread; the engine forgets it at the next step.

    Attributes:
        draws: its tokens are not just the likeliest.
        speaks: its text is made token by token, since it may end the answer, or goes with each token's probability.
    """

    def __init__(self, key: int, request: Request, deliver: Deliver, answer: Answer) -> None:
        self.key, self.request, self.answer = key, request, answer
        self.generators = request.sampling.generators(1)
        self.draws = request.sampling.temperature > 0
        self.speaks = bool(request.stop) or request.logprobs is not None
        self.tokens = np.array(request.tokens, np.int64)
        self.arrived = self.last = time.monotonic()
        self.read = self.reused = 0
        self.cancelled = self.reads_last = False
        self._deliver = deliver

    @property
    def whole(self) -> bool:
        """Whether all of its prompt was read."""
        return self.read == len(self.tokens)

    def cancel(self) -> None:
        """It is wanted no more; its last event may be on its way."""
        self.cancelled = True

    def tell(self, event: Event) -> None:
        if not self.cancelled:
            self._deliver(event)

    def ended(self, kept: Snapshot | None) -> End:
        """Its last event, where nothing failed."""
        usage = Usage(prompt=len(self.tokens), reused=self.reused, answer=len(self.answer.tokens))
        return End(self.answer.end or "length", usage, kept)
