"""What Ray Serve's proxy says in the example where a replica has gone; test_ray.py has replicas that go."""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.serve.ray_site import EXAMPLE

SPEC = importlib.util.spec_from_file_location("gone", EXAMPLE / "gone.py")
assert SPEC is not None and SPEC.loader is not None
gone = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gone)

EVENT = b'data: {"choices":[]}\n\n'


def start(kind: str) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]}


def body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def sending(*messages: Message) -> ASGIApp:
    """The middleware before an application that sends these, and no more."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return gone.Gone(application)


def asked(app: ASGIApp) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.get("/")

    return asyncio.run(ask())


def test_an_answer_that_does_not_begin_is_a_503() -> None:
    found = asked(sending())
    assert (found.status_code, found.headers["retry-after"]) == (503, "1")
    assert found.json()["error"] == {"message": gone.WHY, "type": "server_error", "param": None, "code": 503}


def test_a_stream_that_breaks_off_ends_with_an_error() -> None:
    found = asked(sending(start("text/event-stream; charset=utf-8"), body(EVENT, more=True)))
    assert found.content.startswith(EVENT + b'data: {"error":{"message":"the replica') and found.content[-2:] == b"\n\n"


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json"])
def test_a_whole_answer_stays_as_it_is(kind: str) -> None:
    assert asked(sending(start(kind), body(b"all", more=True), body(b"", more=False))).content == b"all"


def test_nothing_is_sent_to_a_client_that_left() -> None:
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    async def left() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "headers": []}
    asyncio.run(gone.Gone(application)(scope, left, send))
    assert not sent


def test_an_answer_of_another_kind_that_breaks_off_stays_cut() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def never() -> Message:
        raise AssertionError

    messages = [start("application/json"), body(b"{", more=True)]
    asyncio.run(sending(*messages)({"type": "http", "headers": []}, never, send))
    assert sent == messages
