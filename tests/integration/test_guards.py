"""What the database itself refuses, whoever asks, and that its tables are those that other programs expect."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from eventstore.appender import _arguments
from eventstore.pool import open_connection
from eventstore.postgres import PostgresStore
from eventstore.reader import SQL
from eventstore.store import Append, Snapshot
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, written
from tests.support import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CATALOGUE = Path(__file__).parents[3] / "shared" / "data" / "elixir-event-store" / "catalogue.json"
SETTING = "select coalesce(current_setting('eventstore.enable_hard_deletes', true), '')"


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    """Two events, by a single connection: what one use of it leaves behind, the next one finds."""
    async with PostgresStore.open(event_store_url, 1) as store:
        await append(store, APPLES, *events(2))
        yield store


@pytest.fixture
async def connection(event_store_url: str, store: PostgresStore) -> AsyncGenerator[Connection]:
    """Whoever else has the password, with the tables as `store` has filled them."""
    assert store
    connection = await asyncpg.connect(event_store_url)
    yield connection
    await connection.close()


# --- Facts stay


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("update public.events set event_type = 'x'", "Cannot update events"),
        ("update public.events set event_type = 'x' where false", "Cannot update events"),
        ("delete from public.events", "Cannot delete events"),
        ("update public.stream_events set stream_version = 7", "Cannot update stream events"),
        ("delete from public.stream_events", "Cannot delete stream events"),
        ("delete from public.streams where stream_id = 7", "Cannot delete streams"),
    ],
)
async def test_events_are_neither_changed_nor_removed(
    store: PostgresStore, connection: Connection, statement: str, message: str
) -> None:
    before = await store.read_all()
    with pytest.raises(asyncpg.PostgresError, match=f"EventStore: {message}"):
        await connection.execute(statement)
    assert await store.read_all() == before


@pytest.mark.parametrize("setting", ["off", "true", "ON", "1", ""])
async def test_deletes_are_refused_unless_the_setting_is_on(connection: Connection, setting: str) -> None:
    async with connection.transaction():
        await connection.execute("select set_config('eventstore.enable_hard_deletes', $1, true)", setting)
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="Cannot delete events"):
            async with connection.transaction():
                await connection.execute("delete from public.events")


async def test_deletes_pass_while_the_setting_is_on_in_the_transaction(
    store: PostgresStore, connection: Connection
) -> None:
    async with connection.transaction():
        await connection.execute("set local eventstore.enable_hard_deletes = 'on'")
        await connection.execute("delete from public.stream_events")
        await connection.execute("delete from public.events")
    assert await written(store) == []
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await connection.execute("delete from public.events")


@pytest.mark.parametrize("table", ["events", "stream_events"])
async def test_updates_are_refused_even_while_deletes_pass(connection: Connection, table: str) -> None:
    async with connection.transaction():
        await connection.execute("set local eventstore.enable_hard_deletes = 'on'")
        with pytest.raises(asyncpg.RaiseError, match="EventStore: Cannot update"):
            async with connection.transaction():
                await connection.execute(f"update public.{table} set event_id = event_id")


@pytest.mark.parametrize("table", ["events", "stream_events", "streams", "subscriptions", "snapshots"])
async def test_tables_are_not_emptied_by_truncate_even_by_who_owns_them(connection: Connection, table: str) -> None:
    owner = "select pg_get_userbyid(relowner) = current_user from pg_class where oid = $1::text::regclass"
    assert await connection.fetchval(owner, f"public.{table}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(f"truncate public.{table} cascade")


async def test_no_table_of_waybill_is_emptied_by_truncate(connection: Connection) -> None:
    mine = """
        select oid::regclass::text as name from pg_class
        where relkind = 'r' and relnamespace = 'waybill'::regnamespace and relname <> 'migrations'
    """
    for row in await connection.fetch(mine):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"truncate {row['name']} cascade")


@pytest.mark.parametrize("function", ["delete_stream", "purge_stream"])
async def test_the_global_sequence_is_not_deleted_by_hand(
    store: PostgresStore, connection: Connection, function: str
) -> None:
    head = (await append(store, APPLES)).first_position
    with pytest.raises(asyncpg.InvalidParameterValueError, match="global sequence"):
        await connection.fetch(f"select * from waybill.{function}('$all', -1)")
    assert await store.stream_version("$all") == head


async def test_nothing_is_put_into_the_global_sequence_by_hand(store: PostgresStore, connection: Connection) -> None:
    before = await store.read_all()
    by_hand = [event(), event()]
    columns = _arguments([Append(PEARS, "any", by_hand[:1]), Append("$all", "any", by_hand[1:])])
    with pytest.raises(asyncpg.InvalidParameterValueError, match="global sequence"):
        await connection.fetch(SQL["append"], *columns)
    with pytest.raises(asyncpg.InvalidParameterValueError, match="global sequence"):
        await connection.fetch(SQL["link"], "$all", -1, ids(before))
    assert await store.read_all() == before


# --- A hard delete opens the guard for itself only


async def test_a_hard_delete_does_not_leave_the_guard_open_in_the_pool(store: PostgresStore) -> None:
    await store.delete_stream(APPLES, hard=True)
    await append(store, PEARS)
    assert await store._pool.fetchval(SETTING) == ""
    with pytest.raises(asyncpg.FeatureNotSupportedError):
        await store._pool.execute("delete from public.events")
    assert len(await written(store)) == 1


async def test_a_hard_delete_that_fails_does_not_leave_the_guard_open_in_the_pool(
    store: PostgresStore, connection: Connection
) -> None:
    # A table of somebody else's that clings to the stream.
    await connection.execute("create table notes (stream_id bigint references public.streams)")
    await connection.execute("insert into notes select stream_id from public.streams where stream_uuid = $1", APPLES)
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await store.delete_stream(APPLES, hard=True)
    assert await store._pool.fetchval(SETTING) == ""
    assert len(await store.read_stream(APPLES)) == 2


async def test_a_hard_delete_does_not_leave_the_guard_open_in_its_transaction(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("select waybill.purge_stream($1, -1)", APPLES)
        assert await connection.fetchval(SETTING) == "off"
        with pytest.raises(asyncpg.FeatureNotSupportedError):
            async with connection.transaction():
                await connection.execute("delete from public.events")


async def test_a_hard_delete_notes_the_gaps_that_it_leaves(store: PostgresStore, connection: Connection) -> None:
    await append(store, PEARS)
    await append(store, APPLES)
    await store.link("basket", await written(store))
    await store.delete_stream(APPLES, hard=True)
    rows = await connection.fetch(
        "select stream_uuid, versions::text from waybill.gaps join public.streams using (stream_id) order by stream_id"
    )
    assert [tuple(row) for row in rows] == [("$all", "{[1,3),[4,5)}"), ("basket", "{[1,3),[4,5)}")]


async def test_a_snapshot_that_comes_while_its_stream_is_removed_is_not_kept(
    store: PostgresStore, event_store_url: str
) -> None:
    async with open_connection(event_store_url) as removing:
        async with removing.transaction():
            await removing.execute("select waybill.purge_stream($1, -1)", APPLES)
            keeping = asyncio.ensure_future(store.record_snapshot(Snapshot(APPLES, 2, "Fruit", b"{}", b"{}")))
            waits = "select exists (select from pg_locks where not granted)"
            await eventually(lambda: removing.fetchval(waits))
        await keeping
        assert await removing.fetchval("select count(*) from public.snapshots") == 0


async def test_a_snapshot_that_comes_while_a_newer_one_is_kept_with_its_events_does_not_take_its_place(
    store: PostgresStore, event_store_url: str
) -> None:
    async with open_connection(event_store_url) as other:
        newer = await store.stream_version(APPLES) + 1
        async with other.transaction():
            await other.execute(SQL["append_one"], APPLES, -1, uuid4(), "Fruit.Picked", None, None, b"{}", b"{}")
            await other.execute(SQL["record_snapshot"], APPLES, newer, "Fruit", b"{}", b"{}")
            # What it sees of its stream is the version before: the newer one could be taken for one that is ahead.
            older = asyncio.ensure_future(store.record_snapshot(Snapshot(APPLES, newer - 1, "Fruit", b"{}", b"{}")))
            waits = "select exists (select from pg_locks where not granted)"
            await eventually(lambda: other.fetchval(waits))
        await older
        assert await other.fetchval("select source_version from public.snapshots") == newer


# --- Functions


async def test_no_function_of_ours_looks_for_names_where_its_caller_says(connection: Connection) -> None:
    loose = await connection.fetch(
        "select proname from pg_proc where pronamespace = 'waybill'::regnamespace"
        " and not coalesce('search_path=pg_catalog, pg_temp' = any (proconfig), false)"
    )
    assert loose == []


async def test_no_function_of_ours_acts_with_the_rights_of_another(connection: Connection) -> None:
    assert not await connection.fetch(
        "select proname from pg_proc where prosecdef and pronamespace = 'waybill'::regnamespace"
    )


async def test_a_temporary_table_of_the_same_name_is_not_taken_for_the_real_one(
    connection: Connection, store: PostgresStore
) -> None:
    await connection.execute("create temporary table events (like public.events)")
    await connection.execute("create temporary table streams (like public.streams)")
    await connection.execute("select waybill.link('basket', -1, $1)", await written(store))
    assert await connection.fetchval("select count(*) from pg_temp.streams") == 0
    assert await store.stream_version("basket") == 2


# --- Schema public

CATALOGUE_NOW = """
select jsonb_build_object(
  'columns', (
    select jsonb_agg(to_jsonb(found) order by found.table_name, found.ordinal_position) from (
      select table_name, column_name, data_type, is_nullable, column_default, ordinal_position
      from information_schema.columns where table_schema = 'public'
    ) as found
  ),
  'indexes', (
    select jsonb_agg(jsonb_build_object(
      'table', indrelid::regclass::text, 'index', indexrelid::regclass::text, 'unique', indisunique,
      'primary', indisprimary, 'columns', (
        select jsonb_agg(attname order by place) from unnest(indkey) with ordinality as key (attnum, place)
        join pg_attribute on attrelid = indrelid and pg_attribute.attnum = key.attnum
      )
    ))
    from pg_index join pg_class on oid = indrelid where relnamespace = 'public'::regnamespace
  ),
  'foreign_keys', (
    select jsonb_agg(jsonb_build_object(
      'name', conname, 'table', conrelid::regclass::text, 'references', confrelid::regclass::text, 'columns', (
        select jsonb_agg(attname) from pg_attribute where attrelid = conrelid and attnum = any (conkey)
      )
    ))
    from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace
  ),
  'triggers', (
    select jsonb_agg(jsonb_build_object(
      'name', tgname, 'table', tgrelid::regclass::text,
      'timing', case when tgtype & 2 = 2 then 'BEFORE' else 'AFTER' end,
      'level', case when tgtype & 1 = 1 then 'ROW' else 'STATEMENT' end,
      'events', (
        select jsonb_agg(name order by bit)
        from (values (4, 'INSERT'), (8, 'DELETE'), (16, 'UPDATE'), (32, 'TRUNCATE')) as event (bit, name)
        where tgtype & bit = bit
      ),
      'calls', substring(pg_get_triggerdef(oid) from 'EXECUTE FUNCTION (.*)$')
    ))
    from pg_trigger where not tgisinternal
  ),
  'functions', (
    select jsonb_agg(jsonb_build_object('name', proname, 'returns', prorettype::regtype::text))
    from pg_proc where pronamespace = 'public'::regnamespace
  ),
  'sequences', (
    select jsonb_agg(relname) from pg_class where relkind = 'S' and relnamespace = 'public'::regnamespace
  )
)
"""


def sorted_parts(catalogue: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Each part as texts in one order, whatever the order in which it was told."""
    for column in catalogue["columns"]:
        column.pop("ordinal_position", None)
    return {part: sorted(json.dumps(each, sort_keys=True) for each in told) for part, told in catalogue.items()}


async def test_schema_public_is_the_one_that_the_original_makes(connection: Connection) -> None:
    if not CATALOGUE.exists():
        pytest.skip(f"{CATALOGUE} isn't there: nothing to compare with")
    expected = sorted_parts(json.loads(await asyncio.to_thread(CATALOGUE.read_text)))
    found = sorted_parts(json.loads(await connection.fetchval(CATALOGUE_NOW)))
    for part, told in expected.items():
        assert found[part] == told


async def test_the_layout_has_the_number_that_the_original_looks_for(connection: Connection) -> None:
    rows = await connection.fetch("select major_version, minor_version, patch_version from public.schema_migrations")
    assert [tuple(row) for row in rows] == [(1, 3, 2)]


async def test_the_global_sequence_is_stream_0(connection: Connection) -> None:
    assert await connection.fetchval("select stream_uuid from public.streams where stream_id = 0") == "$all"
