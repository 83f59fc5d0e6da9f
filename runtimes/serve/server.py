"""The process: a socket, the application on it, and how both end."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from types import FrameType
from typing import Any

from seqexport.plugins.errors import UserError

try:
    import uvicorn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    from seqexport.runtimes.serve.app import create_app
    from seqexport.runtimes.serve.metrics import Metrics as Metrics
except ImportError as error:
    raise UserError(f"a server needs {error.name}: pip install 'seqexport[serve]'") from error

from seqexport.runtimes.serve.keys import Keys
from seqexport.runtimes.serve.logs import tell
from seqexport.runtimes.serve.memory import settle
from seqexport.runtimes.serve.service import Service

IDLE_SECONDS = 30.0
"""For which a connection may wait with a request that is not whole, and a reader with what it does not read."""

DRAIN_SECONDS = 60.0

TURN_SECONDS = 1e-4
"""After which a thread of Python hands over to another that waits: the model's waits many times a step."""


class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Is cut where the client neither sends a whole request nor reads its answer for ``IDLE_SECONDS``."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._unread: asyncio.TimerHandle | None = None
        self._watching = self.loop.call_later(IDLE_SECONDS, self._watch, None)

    def _watch(self, before: Any) -> None:
        """Again and again: a request is being answered, or another one than the last time was."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if not busy and self.cycle is before:
            self.transport.abort()
        else:
            self._watching = self.loop.call_later(IDLE_SECONDS, self._watch, self.cycle)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._watching.cancel()
        if self._unread is not None:
            self._unread.cancel()


class Server(uvicorn.Server):
    """Answers until it is told to end: then no new requests are taken, and those that are here are answered.

    Attributes:
        settles: whether the process is the server's own, and what it has when it is ready stays for good.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._ends: float | None = None
        self.settles = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at the second."""
        if self._ends is not None:
            self.should_exit = self.force_exit = True
            return
        self._ends = time.monotonic() + DRAIN_SECONDS
        self._service.drain()

    async def on_tick(self, counter: int) -> bool:
        if self._service.failure is not None:
            self.should_exit = True
        if self.settles and self._service.status == "ready":
            self.settles = False
            settle()
        if self._ends is not None and (self._service.idle or time.monotonic() > self._ends):
            self.should_exit = True
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        UserError: it cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{host}:{port}: cannot listen there ({why}); choose another `host` or `port`") from error


def address(bound: socket.socket) -> str:
    """The URL at which a socket of ``listen`` is reached."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def create_server(service: Service, metrics: Metrics, keys: Keys) -> Server:
    """A server that ``run(sockets=[listen(...)])`` starts."""
    app = create_app(service, metrics, keys)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )
    return Server(config, service)


def serve(service: Service, metrics: Metrics, keys: Keys, bound: socket.socket) -> None:
    """Serve until a signal, drain, and close the service and the socket.

    Raises:
        UserError: the bundle cannot be opened.
    """
    sys.setswitchinterval(TURN_SECONDS)
    with bound, service:
        server = create_server(service, metrics, keys)
        server.settles = True
        tell("listening", url=address(bound), model=service.name)
        server.run(sockets=[bound])
        tell("stopped")
        if service.failure is not None:
            raise service.failure
