"""The SQL in docs/event-store.md is run as it stands there: what people copy has to work."""

import re
from pathlib import Path

import asyncpg
import pytest

from eventstore.postgres import PostgresStore
from tests.contract.appends import APPLES, PEARS, append, event, events, written

GUIDE = Path(__file__).parents[2] / "docs" / "event-store.md"
RECIPES = [sql for sql in re.findall(r"```sql\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "create role" not in sql]
ORDER = "7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10"


def recipe(*words: str) -> str:
    (found,) = [sql for sql in RECIPES if all(word in sql for word in words)]
    return found


@pytest.fixture
async def connection(event_store_url: str):
    """A store with an order of three events, links, a subscription, and a stream that was removed for good."""
    async with PostgresStore.open(event_store_url) as store:
        await append(store, PEARS, *events(2))
        await append(store, ORDER, *events(2))
        await store.link("basket", await written(store))
        await append(store, APPLES, *events(2))
        await append(store, ORDER, event("Order.OrderCompleted"))
        await store.delete_stream(APPLES, hard=True)
        async with store.subscribe("stream_linker") as subscription:
            await subscription.ack((await anext(subscription))[2])
            connection = await asyncpg.connect(event_store_url)
            yield connection
            await connection.close()


async def test_every_recipe_runs(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    assert len(RECIPES) > 8
    for sql in RECIPES:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(sql)
        await transaction.rollback()


async def test_the_last_events_are_shown_newest_first(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    rows = await connection.fetch(recipe("order by position.stream_version desc"))
    assert [(row["position"], row["stream_uuid"], row["version"]) for row in rows] == [
        (7, ORDER, 3),
        (4, ORDER, 2),
        (3, ORDER, 1),
        (2, PEARS, 2),
        (1, PEARS, 1),
    ]


async def test_the_owner_of_a_subscription_is_shown(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    (row,) = await connection.fetch(recipe("pg_locks"))
    assert (row["subscription_name"], row["stream_uuid"]) == ("stream_linker", "$all")


async def test_gaps_of_hard_deletes_are_not_shown_as_gaps(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    assert await connection.fetch(recipe("first_missing")) == []
    async with connection.transaction():
        await connection.execute("set local eventstore.enable_hard_deletes = 'on'")
        await connection.execute("delete from public.stream_events where stream_id = 0 and stream_version in (2, 4)")
    rows = await connection.fetch(recipe("first_missing"))
    assert [tuple(row) for row in rows] == [(2, 2), (4, 6)]
