"""From the engine's thread to a coroutine: events of one request, taken all at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from seqexport.plugins.errors import UserError
from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.jobs import Job
from seqexport.runtimes.serve.requests import End, Event, Failed, Piece, Request
from seqexport.runtimes.snapshot import Snapshot


class Mailbox:
    """The events of several choices, each with its index. A slow reader finds many at once."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[tuple[int, Event]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._waking = False

    def put(self, index: int, event: Event) -> None:
        """In the engine's thread."""
        self._events.append((index, event))
        if not self._waking:
            self._waking = True
            with suppress(RuntimeError):  # the loop is closed, and nobody reads
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._waking = False
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> list[tuple[int, Event]]:
        """All events since the last time, at least one."""
        while not self._events:
            self._waiter = self._loop.create_future()
            await self._waiter
        return [self._events.popleft() for _ in range(len(self._events))]


class Visit(Protocol):
    """A session that a request goes on with; given back once."""

    async def leave(self, kept: Snapshot) -> None:
        """As it is after the answer.

        Raises:
            UserError: it could not be kept, and is as it was before the request.
        """

    def abandon(self) -> None:
        """As it was before the request, unless ``leave`` was called."""


class Asked:
    """Requests that the engine was given, one for each choice.

    Args:
        visit: of one request alone, which keeps its sequence.

    Raises:
        UserError, Busy: as ``Engine.submit``.
    """

    def __init__(self, engine: Engine, requests: Sequence[Request], visit: Visit | None = None) -> None:
        self._mail, self._visit, self._left = Mailbox(), visit, len(requests)
        self._jobs: list[Job] = engine.submit(
            requests, [partial(self._mail.put, index) for index in range(len(requests))]
        )

    async def events(self) -> list[tuple[int, Event]]:
        """What came since the last time, each with the index of its choice; empty once every choice has ended."""
        if not self._left:
            return []
        taken = await self._mail.take()
        self._left -= sum(not isinstance(event, Piece) for _, event in taken)
        return [(index, await self._kept(event) if isinstance(event, End) else event) for index, event in taken]

    async def _kept(self, event: End) -> Event:
        """It, once its session is kept; a failure where that fails."""
        if self._visit is not None and event.kept is not None:
            try:
                await self._visit.leave(event.kept)
            except UserError as error:
                return Failed(str(error))
        return event

    def cancel(self) -> None:
        """Nobody waits for them any more."""
        for job in self._jobs:
            job.cancel()
        if self._visit is not None:
            self._visit.abandon()
