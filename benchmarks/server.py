"""A PostgreSQL server for a while, as `waybill dev` runs it: fsync on, by a unix socket, gone with the block."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from dev import postgres
from dev.supervisor import Supervisor
from dev.throwaway import temporary_directory
from eventstore.migrate import migrate


@asynccontextmanager
async def postgres_server() -> AsyncGenerator[postgres.Server]:
    with temporary_directory() as directory:
        server = await asyncio.to_thread(postgres.prepare, directory / "postgres")
        try:
            async with Supervisor(_say) as supervisor:
                await supervisor.start(server.command())
                yield server
        finally:
            server.tidy()


@asynccontextmanager
async def event_stores(*names: str) -> AsyncGenerator[list[str]]:
    """URLs of new event stores of these names, on one server."""
    async with postgres_server() as server:
        await server.create_databases(names)
        urls = [server.url(name, postgres.ROLE) for name in names]
        for url in urls:
            await migrate(url)
        yield urls


def _say(name: str, line: str) -> None:
    if "ERROR" in line or "FATAL" in line:
        sys.stderr.write(f"{name} | {line}\n")
