"""A network that can be made to fail: everything between two programs passes through here.

A proxy knows just enough of what is spoken to see that something was done when its answer comes by: then it can lose
the answer, or say that it failed.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from support import eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHUNK = 1 << 16
# Closed like this, a socket sends a reset and not the end of the stream.
_AT_ONCE = struct.pack("ii", 1, 0)


class Talk(Protocol):
    """What is spoken over one connection."""

    error: bytes
    """What a server says that has failed."""
    goes_on: bool
    """Whether the connection can be used after that."""

    def asked(self, chunk: bytes) -> None: ...

    def is_done(self, chunk: bytes) -> bool:
        """Whether this answer says that something was written."""
        ...


class Http:
    error = b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    goes_on = False

    def __init__(self) -> None:
        self._writes = False

    def asked(self, chunk: bytes) -> None:
        method, _, rest = chunk[:8].partition(b" /")
        if rest:
            self._writes = method != b"GET"

    def is_done(self, chunk: bytes) -> bool:
        return self._writes and chunk.startswith(b"HTTP/1.1 2")


class Postgres:
    """What was done is an append that is news: a transaction of its own."""

    _FIELDS = b"SERROR\0VERROR\0C58030\0Mcould not write to file: Input/output error\0\0"
    _READY = b"Z\0\0\0\5I"
    error = b"E" + struct.pack("!I", len(_FIELDS) + 4) + _FIELDS + _READY
    goes_on = True

    def asked(self, chunk: bytes) -> None:
        pass

    def is_done(self, chunk: bytes) -> bool:
        return b"appended" in chunk and chunk.endswith(self._READY)


class Grpc:
    """What was done is whatever the server has answered."""

    error = b""
    goes_on = False

    def asked(self, chunk: bytes) -> None:
        pass

    def is_done(self, chunk: bytes) -> bool:
        return True


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    cut: bool = False
    """Something that was sent is missing: it can't go on."""

    def deny(self, talk: Talk) -> None:
        self.client.write(talk.error)
        if not talk.goes_on:
            self.close()

    def close(self) -> None:
        """With everything that was written before."""
        for writer in (self.client, self.server):
            if writer is not None:
                writer.close()

    def reset(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None and not writer.is_closing():
                with suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                writer.transport.abort()


@dataclass
class Proxy:
    """Listens on a port of its own for what is meant for `connect`."""

    connect: Callable[[], Awaitable[Streams]]
    speaks: Callable[[], Talk]
    port: int = 0
    _connections: set[_Connection] = field(default_factory=set)
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _swallows: bool = False
    _spoils: Callable[[_Connection, Talk], None] | None = None
    _hits: int = 0
    _most_hits: int = 0
    _hit: asyncio.Event = field(default_factory=asyncio.Event)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[None]:
        self._open.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.reset()
            await eventually(lambda: not self._connections)

    # --- Faults. Each gives the number of connections, or of answers, that it has hit.

    def reset(self) -> int:
        """Cut every connection."""
        found = list(self._connections)
        for connection in found:
            connection.reset()
        return len(found)

    async def stall(self, seconds: float) -> int:
        """Hold everything back for a while, then deliver it."""
        self._open.clear()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._open.set()
        return len(self._connections)

    async def swallow(self, seconds: float) -> int:
        """A black hole: what is sent is gone, and nobody hears of it until the connections are reset in the end."""
        self._swallows = True
        try:
            await asyncio.sleep(seconds)
        finally:
            self._swallows = False
            cut = [connection for connection in self._connections if connection.cut]
            for connection in cut:
                connection.reset()
        return len(cut)

    async def lose_answers(self, most: int, seconds: float) -> int:
        """What is done is done, but the connection breaks before its answer comes."""
        return await self._spoil(lambda connection, _: connection.reset(), most, seconds)

    async def deny_answers(self, most: int, seconds: float) -> int:
        """What is done is done, but its answer is that it failed."""
        return await self._spoil(lambda connection, talk: connection.deny(talk), most, seconds)

    async def _spoil(self, how: Callable[[_Connection, Talk], None], most: int, seconds: float) -> int:
        async with self._one_at_a_time:
            self._hits, self._most_hits, self._spoils = 0, most, how
            self._hit.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._hit.wait()
            self._spoils = None
            return self._hits

    # --- Traffic

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, talk = _Connection(writer), self.speaks()
        self._connections.add(connection)
        try:
            if self._swallows:
                connection.cut = True
                await reader.read()
                return
            answers, connection.server = await self.connect()
            asking = asyncio.create_task(self._pass_on(connection, talk, reader, connection.server, asks=True))
            answering = asyncio.create_task(self._pass_on(connection, talk, answers, writer, asks=False))
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            for half in (asking, answering):
                half.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)
        except OSError:
            # Nobody listens there. Whoever wants to come through notices.
            connection.reset()
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _pass_on(
        self,
        connection: _Connection,
        talk: Talk,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        asks: bool,
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                await self._open.wait()
                if self._swallows or connection.cut:
                    connection.cut = True
                elif asks:
                    talk.asked(chunk)
                    writer.write(chunk)
                elif self._spoils and self._hits < self._most_hits and talk.is_done(chunk):
                    self._spoil_one(self._spoils, connection, talk)
                else:
                    writer.write(chunk)
                await writer.drain()

    def _spoil_one(self, how: Callable[[_Connection, Talk], None], connection: _Connection, talk: Talk) -> None:
        self._hits += 1
        how(connection, talk)
        if self._hits >= self._most_hits:
            self._hit.set()
