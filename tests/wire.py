"""A gateway as a process of its own, and requests as bytes: what no well-behaved client would send."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from settings import Settings

_ANSWER = re.compile(rb"HTTP/1\.1 (?P<status>\d{3}) [^\r\n]*\r\n(?P<headers>(?:[^\r\n]+\r\n)*)\r\n")


@dataclass
class Process:
    """A running `python -m api`."""

    url: str
    process: asyncio.subprocess.Process
    log: list[str] = field(default_factory=list)
    """What it has written to stderr since it serves."""

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname
        assert parts.port
        return parts.hostname, parts.port


@asynccontextmanager
async def gateway_process(settings: Settings, **environment: str) -> AsyncGenerator[Process]:
    """`python -m api` on these settings' stores and task queue; gone with the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAYBILL_")}
    given = {
        "WAYBILL_EVENT_STORE_URL": settings.event_store_url,
        "WAYBILL_READ_STORE_URL": settings.read_store_url,
        "WAYBILL_TASK_QUEUE": settings.task_queue,
        "WAYBILL_API_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "api", env=clean | given | environment, stderr=asyncio.subprocess.PIPE, limit=2**20
    )
    assert process.stderr
    reading = None
    try:
        async with asyncio.timeout(60):
            while not (url := re.search(r"http://[\d.]+:\d+", line := (await process.stderr.readline()).decode())):
                assert line, "it stopped before it served"
        serving = Process(url[0], process)
        reading = asyncio.create_task(_read(process.stderr, serving.log))
        yield serving
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
        if reading:
            await reading


async def _read(stream: asyncio.StreamReader, log: list[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode(errors="replace"))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The problem's code; empty if it is none."""
        problem = self.headers.get("content-type") == "application/problem+json"
        return str(orjson.loads(self.body)["code"]) if problem else ""


async def say(address: tuple[str, int], *said: bytes, within: float = 30) -> list[Answer]:
    """Send these bytes over one connection, and nothing more; the answers until the gateway closes it.

    Whoever sends what leaves the connection open ends with LAST.
    """
    reader, writer = await asyncio.open_connection(*address, limit=2**22)
    received = bytearray()
    try:
        async with asyncio.timeout(within):
            reading = asyncio.create_task(_collect(reader, received))
            with suppress(ConnectionError):
                for part in said:
                    writer.write(part)
                    await writer.drain()
                    # An answer that comes early is read before the connection breaks, as careful clients do.
                    await asyncio.sleep(0)
            await reading
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
    return parse(bytes(received))


async def _collect(reader: asyncio.StreamReader, received: bytearray) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            received += data


def parse(received: bytes) -> list[Answer]:
    """The answers in what was received; 100 Continue is none. Asserts that nothing else is in it."""
    answers: list[Answer] = []
    while received:
        head = _ANSWER.match(received)
        assert head, received[:200]
        lines = (line.partition(":") for line in head["headers"].decode("latin-1").splitlines())
        headers = {name.lower(): value.strip() for name, _, value in lines}
        length = int(headers.get("content-length", "0"))
        body, received = received[head.end() : head.end() + length], received[head.end() + length :]
        if int(head["status"]) != 100:
            answers.append(Answer(int(head["status"]), headers, body))
    return answers


def request(method: str, target: str, *headers: str, body: bytes | None = None, host: str = "waybill.test") -> bytes:
    """A request as a plain client would write it, with these header lines besides."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def json_request(target: str, content: Any, *headers: str) -> bytes:
    """A POST of JSON; bytes are sent as they are."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return request("POST", target, "Content-Type: application/json", *headers, body=body)


LAST = request("GET", "/livez", "Connection: close")
"""An ordinary request, after which the connection is closed."""
