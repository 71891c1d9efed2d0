"""Brings a database's tables to what this code needs: plain SQL files, each applied once, in order of their names."""

from importlib import resources

import asyncpg

# Any number will do, as long as every Waybill process takes the same.
_LOCK = 7_219_830_455_128_671

_BOOKKEEPING = """
create schema if not exists waybill;
create table if not exists waybill.migrations (
  name text primary key,
  applied_at timestamptz not null default now()
)
"""


async def migrate(url: str) -> list[str]:
    """Create or update the event store. Idempotent; run twice at once, one waits for the other.

    Gives the names of the migrations that were applied now.
    """
    return await apply_migrations(url, "eventstore")


async def apply_migrations(url: str, package: str) -> list[str]:
    """Apply `package`'s migrations/*.sql that this database has not seen, all of them in one transaction."""
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", _LOCK)
            # A database that is up to date is only read: `if not exists` would still say a notice each time.
            if not await connection.fetchval("select to_regclass('waybill.migrations') is not null"):
                await connection.execute(_BOOKKEEPING)
            known = {row["name"] for row in await connection.fetch("select name from waybill.migrations")}
            return [await _apply(connection, name, sql) for name, sql in _migrations(package) if name not in known]
    finally:
        await connection.close()


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", name: str, sql: str) -> str:
    await connection.execute(sql)
    await connection.execute("insert into waybill.migrations (name) values ($1)", name)
    return name


def _migrations(package: str) -> list[tuple[str, str]]:
    folder = resources.files(package).joinpath("migrations")
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    return sorted((file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")) for file in files)
