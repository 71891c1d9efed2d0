"""Statements look up by key, however the tables have grown since they were planned and whatever statistics say."""

from collections.abc import AsyncGenerator

import asyncpg
import pytest

from eventstore.postgres import PostgresStore
from eventstore.reader import SQL
from tests.contract.appends import append, events

STATEMENTS = {
    "load": "'stream-1', null",
    "read_forward": "'stream-1', 0, 1000",
    "read_backward": "'stream-1', 0, 1000",
    "read_all": "0, 9000, 1000",
    "read_all_of_types": "0, 9000, 1000, array['Fruit.Rare'], array[]::text[], array[]::text[]",
    "kept_products": "'stream-1'",
    "recall": "gen_random_uuid(), gen_random_uuid()",
    "record_snapshot": "'stream-1', 1, 'Fruit', '{}', '{}'",
}


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    """Few streams, all of them long: a stream is a large part of the store, as far as the planner knows."""
    async with PostgresStore.open(event_store_url, 1) as store:
        for number in range(4):
            await append(store, f"stream-{number}", *events(2500))
        connection = await asyncpg.connect(event_store_url)
        await connection.execute("analyze public.streams, public.events, public.stream_events")
        await connection.close()
        yield store


async def test_no_statement_goes_through_all_events_to_find_those_of_one_stream(store: PostgresStore) -> None:
    async with store.pool.acquire() as connection:
        # As it looks to the planner when the store is large.
        await connection.execute("set parallel_setup_cost = 0; set parallel_tuple_cost = 0")
        await connection.execute("set min_parallel_table_scan_size = 0; set min_parallel_index_scan_size = 0")
        for name, arguments in STATEMENTS.items():
            await connection.execute(f"prepare {name} as {SQL[name]}")
            plan = "\n".join(row[0] for row in await connection.fetch(f"explain execute {name}({arguments})"))
            for wrong in ("Seq Scan on", "Hash Join", "Merge Join", "Gather"):
                assert wrong not in plan, f"{name}:\n{plan}"
