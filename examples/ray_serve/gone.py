"""What a client reads when its replica goes in the middle of its answer. Ray Serve alone would cut the connection."""

from __future__ import annotations

import msgspec
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from seqexport.runtimes.serve.errors import error_object, error_response

WHY = "the replica that was answering is gone; ask again"
STATUS = 503


class Gone:
    """Around Serve's proxy: an answer that does not begin is a 503, and a stream that breaks off ends with an error."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = streams = whole = left = False

        async def received() -> Message:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        async def sent(message: Message) -> None:
            nonlocal began, streams, whole
            if message["type"] == "http.response.start":
                began = True
                streams = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            else:
                whole = not message.get("more_body", False)
            await send(message)

        await self._app(scope, received, sent)
        if left or whole:
            return
        if not began:
            await error_response(STATUS, WHY, {"Retry-After": "1"})(scope, receive, send)
        elif streams:
            event = b"data: " + msgspec.json.encode(error_object(STATUS, WHY)) + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": False})


def middlewares() -> list[Middleware]:
    """For ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``."""
    return [Middleware(Gone)]
