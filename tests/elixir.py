"""Databases as a Commanded application left them behind, restored from their dumps: `clean` and `dirty`."""

import csv
import gzip
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from databases import Databases, Migrate

DUMPS = Path(__file__).parents[2] / "shared" / "data" / "elixir-event-store"

needs_dumps = pytest.mark.skipif(not DUMPS.exists(), reason="the dumps are not beside the project")

# In an order that the foreign keys allow.
_TABLES = ("streams", "events", "stream_events", "subscriptions", "snapshots", "schema_migrations")
_SEQUENCES = {"streams": "stream_id", "subscriptions": "subscription_id"}

_CATALOGUE = {
    "columns": """
        select table_name, column_name, data_type, is_nullable, column_default from information_schema.columns
        where table_schema = 'public' order by table_name, ordinal_position
    """,
    "indexes": """
        select indrelid::regclass::text as "table", indexrelid::regclass::text as "index", indisunique as "unique",
          indisprimary as "primary",
          array(
            select attname::text from unnest(indkey::int2[]) with ordinality as key (attnum, i)
            join pg_attribute on attrelid = indrelid and pg_attribute.attnum = key.attnum order by i
          ) as columns
        from pg_index join pg_class on pg_class.oid = indrelid
        where relnamespace = 'public'::regnamespace order by 1, 2
    """,
    "foreign_keys": """
        select conname::text as name, conrelid::regclass::text as "table", array[attname::text] as columns,
          confrelid::regclass::text as "references"
        from pg_constraint join pg_attribute on attrelid = conrelid and attnum = conkey[1]
        where contype = 'f' and connamespace = 'public'::regnamespace order by 1
    """,
    "triggers": """
        select trigger_name as name, event_object_table as "table", action_timing as timing,
          array_agg(event_manipulation::text order by event_manipulation::text) as events,
          action_orientation as level, replace(action_statement, 'EXECUTE FUNCTION ', '') as calls
        from information_schema.triggers
        where trigger_schema = 'public' group by 1, 2, 3, 5, 6 order by 2, 1
    """,
    "functions": """
        select proname::text as name, prorettype::regtype::text as returns from pg_proc
        where pronamespace = 'public'::regnamespace order by 1
    """,
    "sequences": "select sequencename::text from pg_sequences where schemaname = 'public' order by 1",
}


async def _restore(which: str, url: str) -> list[str]:
    """The tables as the application's own installer makes them, with what the dump has in them."""
    layout = resources.files("eventstore").joinpath("migrations", "0001_event_store.sql").read_text()
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(layout)
            await connection.execute("set local eventstore.enable_hard_deletes = 'on'")
            await connection.execute("delete from streams; delete from schema_migrations")
            for table in _TABLES:
                await _fill(connection, table, gzip.decompress((DUMPS / which / f"{table}.csv.gz").read_bytes()))
            for table, column in _SEQUENCES.items():
                await connection.execute(f"select setval('{table}_{column}_seq', (select max({column}) from {table}))")
            return [which]
    finally:
        await connection.close()


async def _fill(connection: "asyncpg.Connection[asyncpg.Record]", table: str, content: bytes) -> None:
    columns = next(csv.reader([content.splitlines()[0].decode()]))
    await connection.copy_to_table(table, source=BytesIO(content), format="csv", header=True, columns=columns)


# One each, so that a dump is read once and then copied from a template.
_RESTORE: Mapping[str, Migrate] = {which: partial(_restore, which) for which in ("clean", "dirty")}


def restored(databases: Databases, which: str) -> AbstractAsyncContextManager[str]:
    """The URL of a database of its own with the dump in it; dropped afterwards."""
    return databases.empty(_RESTORE[which])


async def as_the_original_appends(
    connection: "asyncpg.Connection[asyncpg.Record]", stream: str, kind: str, data: bytes
) -> UUID:
    """The event, its stream, the global sequence."""
    event_id = uuid4()
    await connection.execute(
        "insert into events (event_id, event_type, data, metadata) values ($1, $2, $3, '{}')", event_id, kind, data
    )
    await connection.execute(
        """
        insert into streams (stream_uuid, stream_version) values ($1, 1)
        on conflict (stream_uuid) do update set stream_version = streams.stream_version + 1
        """,
        stream,
    )
    await connection.execute("update streams set stream_version = stream_version + 1 where stream_id = 0")
    await connection.execute(
        """
        insert into stream_events
        select $1, target.stream_id, target.stream_version, own.stream_id, own.stream_version
        from streams own, streams target
        where own.stream_uuid = $2 and target.stream_uuid in ($2, '$all')
        """,
        event_id,
        stream,
    )
    return event_id


async def contents(url: str) -> dict[str, str]:
    """A digest of all rows of each table."""
    connection = await asyncpg.connect(url)
    try:
        digest = "select md5(string_agg(md5({0}::text), '' order by {0}::text)) from {0}"
        return {table: await connection.fetchval(digest.format(table)) for table in _TABLES}
    finally:
        await connection.close()


async def catalogue(url: str) -> dict[str, list[Any]]:
    """What schema public consists of, as in catalogue.json."""
    connection = await asyncpg.connect(url)
    try:
        found = {what: await connection.fetch(query) for what, query in _CATALOGUE.items()}
    finally:
        await connection.close()
    return {what: [dict(row) if len(row) > 1 else row[0] for row in rows] for what, rows in found.items()}


def original_catalogue() -> dict[str, list[Any]]:
    """What the application's own installer has made."""
    return json.loads((DUMPS / "catalogue.json").read_text())
