"""`waybill worker` as a process of its own: what it logs, and how it ends."""

import asyncio
import json
import signal
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from command_line import CommandLine
from support import eventually


class Worker:
    """A `waybill worker`, and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.rest: list[str] = []
        self.listening = asyncio.create_task(self._listen())

    async def said(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line of its log."""

        def found() -> dict[str, Any] | None:
            assert not self.process.returncode, self.rest
            wanted = {"event": event} | fields
            return next((line for line in self.lines if wanted.items() <= line.items()), None)

        line = await eventually(found, within=60, what=event)
        assert line is not None
        return line

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            await self.listening
            return await self.process.wait()

    async def _listen(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            try:
                self.lines.append(json.loads(line))
            except ValueError:
                self.rest.append(line.decode())


@asynccontextmanager
async def worker_process(environment: Mapping[str, str], *options: str) -> AsyncGenerator[Worker]:
    """Started, and killed if it still runs after the block."""
    async with CommandLine(dict(environment)).running("worker", *options) as process:
        yield Worker(process)
