"""A PostgreSQL server for a while, as `waybill dev` runs it: fsync on, by a unix socket, gone with the block."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from dev import postgres
from dev.supervisor import Supervisor
from dev.throwaway import temporary_directory
from eventstore.migrate import migrate


@dataclass(frozen=True)
class Databases:
    """Event stores, or empty databases, on one server."""

    server: postgres.Server
    role: str = postgres.ROLE

    def url(self, name: str) -> str:
        return self.server.url(name, self.role)

    def admin_url(self, name: str) -> str:
        return self.server.url(name)


@asynccontextmanager
async def databases(
    *event_stores: str, empty: tuple[str, ...] = (), settings: Mapping[str, str] | None = None
) -> AsyncGenerator[Databases]:
    """A server with these, the event stores migrated. `settings` are PostgreSQL's."""
    with temporary_directory() as directory:
        prepared = await asyncio.to_thread(postgres.prepare, directory / "postgres")
        server = replace(prepared, settings=settings or {})
        try:
            async with Supervisor(_say) as supervisor:
                await supervisor.start(server.command())
                await server.create_databases([*event_stores, *empty])
                made = Databases(server)
                for name in event_stores:
                    await migrate(made.url(name))
                yield made
        finally:
            server.tidy()


def _say(name: str, line: str) -> None:
    if "ERROR" in line or "FATAL" in line:
        sys.stderr.write(f"{name} | {line}\n")
