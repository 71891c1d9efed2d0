"""HTTP as cheap as it gets: one GET after the other on one connection, so that the server is what is measured."""

import asyncio
from typing import Self, cast
from urllib.parse import urlsplit


class Wire(asyncio.Protocol):
    """A connection of an HTTP/1.1 client. It knows answers with a Content-Length, and one at a time."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._received = bytearray()
        self._answered: asyncio.Future[bytes] | None = None
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def to(cls, url: str) -> Self:
        """A connection to the server at `url`, which names its port."""
        parts = urlsplit(url)
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(parts.netloc), str(parts.hostname), parts.port or 80)
        return wire

    async def get(self, path: str) -> bytes:
        """The body. Raises for any status but 200."""
        assert self._transport
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAccept: */*\r\n\r\n".encode())
        return await self._answered

    def close(self) -> None:
        assert self._transport
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._received) < end + 4 + length:
            return
        body = bytes(self._received[end + 4 :])
        self._received.clear()
        self._settle(body if head.startswith(b"http/1.1 200 ") else OSError(head.decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle(exc or ConnectionError("the server has closed the connection"))

    def _settle(self, outcome: bytes | Exception) -> None:
        if self._answered is None or self._answered.done():
            return
        if isinstance(outcome, Exception):
            self._answered.set_exception(outcome)
        else:
            self._answered.set_result(outcome)
