"""A gateway on a port, in this process, and clients that listen to its live streams."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import UUID, uuid4

import pytest
import uvicorn

from api.app import Server, create_app
from api.server import strict_protocol
from eventstore.store import Append, NewEvent
from settings import Settings
from support import eventually

_WITHIN = 20.0


@dataclass
class Serving:
    """A gateway that serves, its address, and what is in it."""

    server: Server
    port: int
    app: Any

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def serving(settings: Settings, temporal: str = "127.0.0.1:1") -> AsyncGenerator[Serving]:
    """A gateway that serves on a port of its own until the block ends. Nobody is at Temporal's default address."""
    app = create_app(settings)
    http = strict_protocol(settings)
    server = Server(uvicorn.Config(app, http=http, ws="none", log_config=None, timeout_graceful_shutdown=10))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # Not `serve`, which would take the signals that pytest waits for.
        task = asyncio.create_task(server._serve([listening]))
        try:
            # Only while it starts: others read the environment, too.
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("TEMPORAL_ADDRESS", temporal)
                await eventually(lambda: server.started or task.done(), within=60)
            yield Serving(server, listening.getsockname()[1], app)
        finally:
            server.should_exit = True
            await task


@dataclass
class Listener:
    """One client of a live stream, on a connection of its own that is read only when the test says so."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""
    lines: list[str] = field(default_factory=list)
    """Comments and other lines that belong to no event."""
    last_id: str = ""

    @classmethod
    @asynccontextmanager
    async def at(cls, port: int, path: str, **headers: str) -> AsyncGenerator[Self]:
        """Connected, with the answer's head read."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 22)
        wanted = {"Host": "waybill.test", "Accept": "text/event-stream", **headers}
        head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in wanted.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{head}\r\n".encode())
        listener = cls(reader, writer)
        try:
            async with asyncio.timeout(_WITHIN):
                listener.head = (await reader.readuntil(b"\r\n\r\n")).decode()
            yield listener
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    async def line(self) -> str | None:
        """The next line of the stream; None at its end. A chunk of the transfer has whole lines."""
        while True:
            async with asyncio.timeout(_WITHIN):
                line = (await self.reader.readline()).decode()
            if line.endswith("\r\n"):
                if line == "0\r\n":
                    return None
                continue
            assert line, "cut off"
            return line.rstrip("\n")

    async def event(self) -> tuple[int, str, dict[str, Any]]:
        """Id, type and data of the next event."""
        # Heartbeats don't count.
        async with asyncio.timeout(3 * _WITHIN):
            event = await self._next()
        assert event, "the stream has ended"
        return event

    async def events(self, number: int) -> list[tuple[int, str, dict[str, Any]]]:
        return [await self.event() for _ in range(number)]

    async def rest(self) -> list[tuple[int, str, dict[str, Any]]]:
        """All that comes until the stream's end."""
        found: list[tuple[int, str, dict[str, Any]]] = []
        while event := await self._next():
            found.append(event)
        return found

    async def until(self, line: str) -> None:
        """Read on until this line has come."""
        async with asyncio.timeout(3 * _WITHIN):
            while await self.line() != line:
                pass

    async def _next(self) -> tuple[int, str, dict[str, Any]] | None:
        """The next event as the specification of server-sent events reads it; None at the end."""
        kind, data = "", ""
        while (line := await self.line()) is not None:
            if line.startswith(":"):
                self.lines.append(line)
                continue
            name, _, value = line.partition(": ")
            match name:
                case "id":
                    self.last_id = value
                case "event":
                    kind = value
                case "data":
                    data += value
                case "":
                    if data:
                        return int(self.last_id), kind, json.loads(data)
                    kind = ""
                case _:
                    self.lines.append(line)
        return None


def happened(stream_id: UUID, number: int, kind: str = "Test.Happened", size: int = 0) -> Append:
    """So many events, to append to a stream."""
    data = json.dumps({"id": str(stream_id), "text": "x" * size}).encode()
    return Append(str(stream_id), "any", [NewEvent(uuid4(), kind, data) for _ in range(number)])


def metric(text: str, name: str) -> float:
    """The value of a metric without labels."""
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])
