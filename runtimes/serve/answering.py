"""A request's events as one answer, or as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from fastapi import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from seqexport.runtimes.serve.engine import Engine
from seqexport.runtimes.serve.errors import Refused, error_object
from seqexport.runtimes.serve.mailbox import Asked, Visit
from seqexport.runtimes.serve.replies import Choice, Reply, usage_object
from seqexport.runtimes.serve.requests import End, Event, Failed, Piece, Request, Usage

Result = TypeVar("Result")
NO_BUFFERING = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
GONE = 499
"""Nobody is there to read this status; logs and metrics have it."""


class EventStream(Response):
    """Server-sent events of all choices; what was asked is cancelled when it ends, however it does."""

    media_type = "text/event-stream"

    def __init__(self, asked: Asked, reply: Reply, *, choices: int, n: int, include_usage: bool) -> None:
        super().__init__(headers=NO_BUFFERING)
        del self.headers["content-length"]
        self._asked, self._reply, self._choices, self._n, self._usage = asked, reply, choices, n, include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(Refused):  # the client left
                await _while_connected(receive, self._send(send))
        finally:
            self._asked.cancel()

    async def _send(self, send: Send) -> None:
        """What came of one step at once."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        usages: list[tuple[int, Usage]] = []
        if first := [_event(chunk) for chunk in self._reply.first_chunks(self._choices, usage=self._usage)]:
            await send(_part(first, more=True))
        lines: list[bytes] = []
        try:
            while events := await self._asked.events():
                for index, choice in _together(events):
                    usages += [(index, choice.usage)] if choice.usage is not None else []
                    lines.append(_event(self._reply.chunk(index, choice, usage=self._usage)))
                await send(_part(lines, more=True))
                lines = []
        except Refused as error:
            lines.append(_event(error_object(error.status, error.message)))
        else:
            lines += [_event(self._reply.last_chunk(usage_object(usages, self._n)))] if self._usage else []
            lines.append(b"data: [DONE]\n\n")
        await send(_part(lines, more=False))


async def answer(
    http: HttpRequest,
    engine: Engine,
    requests: Sequence[Request],
    reply: Reply,
    *,
    n: int,
    stream: bool,
    include_usage: bool,
    visit: Visit | None = None,
) -> Response:
    """Put the requests to the engine, ``n`` a prompt, and answer as one object or as a stream.

    Raises:
        UserError, Busy: as ``Engine.submit``.
        Refused: an answer failed, or the client left; a stream then has an ``error`` event.
    """
    asked = Asked(engine, requests, visit)
    if stream:
        return EventStream(asked, reply, choices=len(requests), n=n, include_usage=include_usage)
    try:
        choices = await _while_connected(http.receive, _collected(asked, len(requests)))
    finally:
        asked.cancel()
    usages = [(index, choice.usage) for index, choice in enumerate(choices) if choice.usage is not None]
    return Response(msgspec.json.encode(reply.whole(choices, usage_object(usages, n))), media_type="application/json")


async def _collected(asked: Asked, count: int) -> list[Choice]:
    choices = [Choice() for _ in range(count)]
    while events := await asked.events():
        for index, event in events:
            _add(choices[index], event)
    return choices


def _add(choice: Choice, event: Event) -> None:
    if isinstance(event, Piece):
        choice.text += event.text
        choice.chosen += [event.chosen] if event.chosen is not None else []
    elif isinstance(event, End):
        choice.reason, choice.usage = event.reason, event.usage
    else:
        raise Refused(_status(event), event.message, {"Retry-After": "5"} if event.busy else None)


def _status(failed: Failed) -> int:
    return 503 if failed.busy else 500


def _together(events: Sequence[tuple[int, Event]]) -> Iterator[tuple[int, Choice]]:
    """What came at once, as one chunk for each choice; an end as one of its own."""
    parts: dict[int, Choice] = {}
    for index, event in events:
        if isinstance(event, Piece):
            _add(parts.setdefault(index, Choice()), event)
            continue
        if index in parts:
            yield index, parts.pop(index)
        end = Choice()
        _add(end, event)
        yield index, end
    yield from parts.items()


def _part(lines: Sequence[bytes], *, more: bool) -> Message:
    return {"type": "http.response.body", "body": b"".join(lines), "more_body": more}


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Its result.

    Raises:
        Refused: the client left before.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refused(GONE, "the client left before the answer was whole")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
