"""`waybill ...` as a user runs it: a process of its own, told by signals, heard by what it prints."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from dev.leash import leashed
from dev.record import Record

_LONGEST_SECONDS = 120.0


@dataclass(frozen=True)
class Ended:
    """How a command has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it printed as one JSON object per line."""
        return [json.loads(line) for line in self.out.splitlines()]


@dataclass(frozen=True)
class CommandLine:
    """Commands with the settings that lead to one stack."""

    environment: dict[str, str]

    @classmethod
    def to(cls, record: Record) -> "CommandLine":
        return cls(
            {
                "WAYBILL_API_URL": record.api_url,
                "WAYBILL_EVENT_STORE_URL": record.event_store_url,
                "WAYBILL_READ_STORE_URL": record.read_store_url,
            }
        )

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
        """The command while it runs, with pipes to it; killed if it still runs after the block."""
        process = await asyncio.create_subprocess_exec(
            *leashed([sys.executable, "-P", "-m", "cli", *arguments], signal.SIGKILL),
            env={**os.environ, **self.environment},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                # Also reads the pipes to their end: what nobody has read would keep their transports open.
                await process.communicate()

    async def __call__(self, *arguments: str, given: bytes = b"") -> Ended:
        """Run the command to its end, with `given` on its standard input."""
        async with self.running(*arguments) as process:
            return await ended(process, given)


async def ended(process: asyncio.subprocess.Process, given: bytes = b"") -> Ended:
    """The command's end, and everything that it printed until then and nobody has read."""
    async with asyncio.timeout(_LONGEST_SECONDS):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())
