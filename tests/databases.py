"""PostgreSQL for the tests: one server per session, a migrated and empty database per test that asks for one.

WAYBILL_TEST_POSTGRES says which server: nothing for the embedded one, `docker` for a container,
`postgresql://superuser:password@host/database` for any other.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import asyncpg

from dev import postgres
from dev.supervisor import Supervisor
from dev.throwaway import temporary_directory

Migrate = Callable[[str], Awaitable[list[str]]]
VERSION = "18.6"
"""Of the container, as in docker-compose.yml; POSTGRES_VERSION chooses another, as there."""
_numbers = count(1)


@dataclass
class Databases:
    """Makes and drops databases on one server."""

    admin_url: str
    _templates: dict[Migrate, str] = field(default_factory=dict)

    @asynccontextmanager
    async def empty(self, migrate: Migrate | None = None) -> AsyncGenerator[str]:
        """The URL of a new database, with the tables that `migrate` makes; dropped afterwards."""
        name = await self._create(await self._template(migrate) if migrate else "template0")
        try:
            yield self._url(name)
        finally:
            await self._execute(f'drop database "{name}" with (force)')

    async def drop_templates(self) -> None:
        for name in self._templates.values():
            await self._execute(f'drop database "{name}" with (force)')
        self._templates.clear()

    async def ensure_role(self) -> None:
        """Tests connect as a role that is no superuser, as Waybill should in production."""
        await self._execute(
            "do $$ begin "
            f"create role {postgres.ROLE} login password '{postgres.ROLE}'; "
            "exception when duplicate_object or unique_violation then null; end $$"
        )

    async def _template(self, migrate: Migrate) -> str:
        if migrate not in self._templates:
            name = await self._create("template0")
            self._templates[migrate] = name
            await migrate(self._url(name))
        return self._templates[migrate]

    async def _create(self, template: str) -> str:
        name = f"waybill_test_{os.getpid()}_{next(_numbers)}"
        await self._execute(f'create database "{name}" template "{template}" owner {postgres.ROLE}')
        return name

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.admin_url)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _url(self, database: str) -> str:
        parts = urlsplit(self.admin_url)
        place = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{postgres.ROLE}:{postgres.ROLE}@{place}", path=f"/{database}").geturl()


class PrivateServer(Databases):
    """A PostgreSQL server of one test's own, to be killed and started again at will."""

    def __init__(self, server: postgres.Server) -> None:
        super().__init__(server.url())
        self._server = server
        self._supervisor = Supervisor(_print)

    async def start(self) -> None:
        await self._supervisor.start(self._server.command())

    async def stop(self) -> None:
        """The shutdown that a careful operator does: sessions are ended, nothing is lost."""
        await self._supervisor.stop()

    async def kill(self) -> None:
        """What a power failure does, to the processes at least. It stays down until it is started."""
        os.kill(self._supervisor.pid("postgres"), signal.SIGKILL)
        await self._supervisor.stop()


@asynccontextmanager
async def private_server() -> AsyncGenerator[PrivateServer]:
    """Started, without databases."""
    with temporary_directory() as directory:
        server = await asyncio.to_thread(postgres.prepare, directory / "postgres")
        private = PrivateServer(server)
        try:
            await private.start()
            await private.ensure_role()
            yield private
        finally:
            await private.stop()
            server.tidy()


@asynccontextmanager
async def session_server() -> AsyncGenerator[Databases]:
    """The server that WAYBILL_TEST_POSTGRES names."""
    choice = os.environ.get("WAYBILL_TEST_POSTGRES", "")
    if not choice:
        async with private_server() as server:
            yield server
        return
    async with _container() if choice == "docker" else _given(choice) as databases:
        await databases.ensure_role()
        try:
            yield databases
        finally:
            await databases.drop_templates()


@asynccontextmanager
async def _given(url: str) -> AsyncGenerator[Databases]:
    yield Databases(url)


@asynccontextmanager
async def _container() -> AsyncGenerator[Databases]:
    from testcontainers.community.postgres import PostgresContainer

    image = f"postgres:{os.environ.get('POSTGRES_VERSION', VERSION)}"
    container = await asyncio.to_thread(PostgresContainer(image, driver=None).start)
    try:
        yield Databases(container.get_connection_url())
    finally:
        await asyncio.to_thread(container.stop)


def _print(name: str, line: str) -> None:
    print(f"{name} | {line}")  # noqa: T201 - pytest shows it beside a test that fails
