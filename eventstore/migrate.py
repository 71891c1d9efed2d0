"""Brings a database's tables to what this code needs: plain SQL files, each applied once, in order of their names."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg
import structlog

from eventstore.roles import grant_roles

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

log = structlog.get_logger(__name__)

LAYOUT = "0001_event_store"
"""The migration that makes schema public; an adopted database came with it."""

LOCK_SECONDS = 5.0
"""How long a migration waits for a table that others use. For so long everybody waits behind it who comes after it."""

# Any number will do, as long as every Waybill process takes the same.
_LOCK = 7_219_830_455_128_671

_BOOKKEEPING = """
create schema if not exists waybill;
create table if not exists waybill.migrations (
  name text primary key,
  applied_at timestamptz not null default now()
)
"""


class NotMigratable(Exception):
    """The database holds tables of another program."""


class TablesInUse(Exception):
    """A table that is to be changed is locked by a transaction that doesn't end: nothing was changed."""


async def migrate(url: str) -> list[str]:
    """Create or update the event store. Idempotent; run twice at once, one waits for the other.

    Gives the names of the migrations that were applied now. Raises NotMigratable for another program's event store,
    TablesInUse if it couldn't be done without holding up everybody.
    """
    async with migrating(url) as connection:
        if await holds_foreign_events(connection):
            raise NotMigratable("it holds the event store of another program: `waybill adopt` takes it over")
        applied = await apply_pending(connection, "eventstore")
        if not await grant_roles(connection) and applied:
            log.warning("roles.not_granted", hint="run `waybill migrate` as somebody who may create roles to have them")
        return applied


@asynccontextmanager
async def migrating(url: str) -> AsyncGenerator["Connection"]:
    """A connection in a transaction, while nobody else migrates this database. Raises TablesInUse."""
    connection: Connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            # Not before: who waits for another migration holds up nobody.
            await connection.execute(f"set local lock_timeout = {round(LOCK_SECONDS * 1000)}")
            # A database that is up to date is only read: `if not exists` would still say a notice each time.
            if not await connection.fetchval("select to_regclass('waybill.migrations') is not null"):
                await connection.execute(_BOOKKEEPING)
            yield connection
    except asyncpg.LockNotAvailableError:
        raise TablesInUse(
            f"a table was in use for more than {LOCK_SECONDS:g} s, by a transaction that doesn't end (pg_stat_activity "
            "says whose): nothing was changed here, try again"
        ) from None
    finally:
        await connection.close()


async def holds_foreign_events(connection: "Connection") -> bool:
    """Whether schema public has an event store that Waybill neither made nor adopted."""
    return LAYOUT not in await _applied(connection) and await connection.fetchval(
        "select to_regclass('public.streams') is not null and to_regclass('public.stream_events') is not null"
    )


async def apply_pending(connection: "Connection", package: str) -> list[str]:
    """Apply `package`'s migrations that this database has not seen; gives their names."""
    known = await _applied(connection)
    pending = [(name, sql) for name, sql in migrations(package).items() if name not in known]
    for name, sql in pending:
        try:
            await connection.execute(sql)
        except asyncpg.DuplicateTableError as error:
            raise NotMigratable(
                f"another program's tables are in the way ({error}): give Waybill an empty database"
            ) from None
        await record(connection, name)
    return [name for name, _ in pending]


async def record(connection: "Connection", name: str) -> None:
    """Note that this database has a migration."""
    await connection.execute("insert into waybill.migrations (name) values ($1)", name)


def migrations(package: str) -> dict[str, str]:
    """The SQL of `package`'s migrations by their names, in the order in which they are applied."""
    folder = resources.files(package).joinpath("migrations")
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return dict(sorted((file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")) for file in files))


async def _applied(connection: "Connection") -> set[str]:
    return {row["name"] for row in await connection.fetch("select name from waybill.migrations")}
