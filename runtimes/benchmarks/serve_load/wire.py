"""HTTP/1.1 over one connection that is kept alive, with as little work as the checks need."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from time import monotonic

SECONDS = 120.0
"""After which an answer that does not come is an error."""

IDLE_SECONDS = 1.0
"""After which a connection is not used again: the server closes it after some, and may do so at that moment."""


class Connection:
    """Opened when something is asked, and again after it was dropped or the server closed it.

    Args:
        receives: bytes of the socket's buffer; None: as the system has it.
    """

    def __init__(self, port: int, key: str, receives: int | None = None) -> None:
        self._port, self._key, self._receives = port, key, receives
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._headers: dict[bytes, bytes] = {}
        self._used = 0.0

    async def ask(self, method: str, path: str, body: bytes = b"", key: str | None = None) -> tuple[int, bytes]:
        """A request and its whole answer: its status and its body.

        Args:
            key: instead of the connection's.
        """
        return await self.begin(method, path, body, key), b"".join([piece async for piece in self.pieces()])

    async def begin(self, method: str, path: str, body: bytes = b"", key: str | None = None) -> int:
        """A request, and the status of its answer; ``pieces`` gives what comes after it."""
        await self.send(self.head(method, path, len(body), key) + body)
        return await self.status()

    def head(self, method: str, path: str, length: int | None, key: str | None = None) -> bytes:
        """Of a request with a body of ``length`` bytes; None: of one that comes in chunks."""
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        return (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key or self._key}\r\n"
            f"Content-Type: application/json\r\n{size}\r\n\r\n"
        ).encode()

    async def send(self, data: bytes) -> None:
        if self._reader is None or self._writer is None or monotonic() - self._used > IDLE_SECONDS:
            self.drop()
            self._reader, self._writer = await asyncio.open_connection(sock=await self._connected())
        self._used = monotonic()
        self._writer.write(data)
        await self._writer.drain()

    async def _connected(self) -> socket.socket:
        made = socket.socket()
        try:
            made.setblocking(False)
            if self._receives is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receives)
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", self._port))
        except BaseException:
            made.close()
            raise
        return made

    async def status(self) -> int:
        assert self._reader is not None
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), SECONDS)
        first, *lines = head[:-4].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        self._headers = {name.lower(): value.strip() for name, _, value in pairs}
        return int(first.split()[1])

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body of the answer, as it comes."""
        assert self._reader is not None
        if self._headers.get(b"transfer-encoding") == b"chunked":
            while size := int(await self._reader.readline(), 16):
                yield (await self._reader.readexactly(size + 2))[:-2]
            await self._reader.readline()
        else:
            yield await self._reader.readexactly(int(self._headers.get(b"content-length", b"0")))
        self._used = monotonic()
        if self._headers.get(b"connection") == b"close":
            self.drop()

    def drop(self) -> None:
        """Leave without a word, whatever is under way."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None
