"""What every request passes first: keys, the size and the time of its body; and what is told of it afterwards."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqexport.runtimes.serve.errors import Refused, error_response
from seqexport.runtimes.serve.keys import Keys
from seqexport.runtimes.serve.logs import tell
from seqexport.runtimes.serve.metrics import Metrics

BODY_SECONDS = 30.0
GUARDED = "/v1/"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "frame-ancestors 'none'"
)


class Guard:
    """An ASGI application before another one, to which it gives whole bodies.

    Args:
        max_body: bytes of a request's body.
        paths: the server's own, by which requests are counted.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, max_body: int, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._keys, self._max_body = app, keys, max_body
        self._metrics, self._paths = metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, name = time.monotonic(), 0, secrets.token_hex(8)

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    (b"x-request-id", name.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"content-security-policy", POLICY.encode()),
                ]
            await send(message)

        try:
            await self._pass(scope, receive, told)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.answered(path, status)
            seconds = round(time.monotonic() - began, 4)
            tell("request", request=name, method=scope["method"][:16], path=path, status=status, seconds=seconds)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            if scope["path"].startswith(GUARDED):
                self._check_key(headers)
            body = await self._body(headers, receive)
        except Refused as error:
            await error_response(error.status, error.message, error.headers)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _given(body, receive), send)

    def _check_key(self, headers: Headers) -> None:
        given = headers.get("authorization")
        if not self._keys.allow(None if given is None else given.encode("latin-1")):
            raise Refused(401, "no key, or none of this server's: send Authorization: Bearer KEY")

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """All of it; None where the client left meanwhile."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._max_body:
            raise self._too_large()
        try:
            return await asyncio.wait_for(self._read(receive), BODY_SECONDS)
        except asyncio.TimeoutError as error:
            raise Refused(408, f"the body did not come within {BODY_SECONDS:g} seconds") from error

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body:
                raise self._too_large()
            if not message.get("more_body"):
                return bytes(body)

    def _too_large(self) -> Refused:
        return Refused(413, f"the body has more than {self._max_body} bytes, the most that this server takes")


def _given(body: bytes, receive: Receive) -> Receive:
    """The body at once, then what comes after it."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return left.pop() if left else await receive()

    return next_message
