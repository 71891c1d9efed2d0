"""The handler `stream_linker`: all events of orders in one stream."""

from collections.abc import AsyncGenerator
from random import Random
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import pytest

from databases import Databases
from elixir import as_the_original_appends, needs_dumps, restored
from eventstore.adopt import adopt
from eventstore.adopted import AdoptedStore
from eventstore.pool import open_connection
from eventstore.postgres import PostgresStore
from handling import handled_up_to_now, handling, happen, nothing_parked
from projecting import append_all, random_lives
from projections.handlers.stream_linker import NAME, ORDERS_STREAM, stream_linker


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url, 4) as store:
        yield store


async def linked(store: PostgresStore) -> list[UUID]:
    return [event.event_id for event in await store.read_stream(ORDERS_STREAM, limit=10_000)]


async def of_orders(store: PostgresStore) -> list[UUID]:
    """What is to be in the stream: the events of orders, in the order in which they happened."""
    return [event.event_id for event in await store.read_all(limit=10_000) if event.type.startswith("Order.")]


def test_the_stream_has_the_name_that_the_original_gave_it() -> None:
    assert UUID(ORDERS_STREAM) == uuid5(NAMESPACE_OID, "orders")


@pytest.mark.parametrize("batch", [1, 7, 1000])
async def test_events_of_orders_are_linked_once_each_in_their_order(store: PostgresStore, batch: int) -> None:
    await append_all(store, random_lives(Random(1), 20))
    async with handling(store, stream_linker(store, batch=batch)):
        await handled_up_to_now(store, NAME)
        await append_all(store, random_lives(Random(2), 10))
        await handled_up_to_now(store, NAME)
    assert await linked(store) == await of_orders(store)
    versions = [event.number for event in await store.read_stream(ORDERS_STREAM, limit=10_000)]
    assert versions == list(range(1, len(versions) + 1))


async def test_a_subscription_that_begins_again_links_nothing_twice(store: PostgresStore) -> None:
    await append_all(store, random_lives(Random(2), 10))
    async with handling(store, stream_linker(store)):
        await handled_up_to_now(store, NAME)
    before = await linked(store)
    await store.pool.execute("update public.subscriptions set last_seen = 0")
    async with handling(store, stream_linker(store, batch=3)):
        await handled_up_to_now(store, NAME)
    assert await linked(store) == before == await of_orders(store)


async def test_an_event_that_was_purged_before_it_was_linked_is_no_error(store: PostgresStore) -> None:
    gone, stays = uuid4(), uuid4()
    await happen(store, gone, "Order.OrderCreated", "Order.OrderDeleted")
    await happen(store, stays, "Order.OrderCreated")
    events = await store.read_all()
    await store.delete_stream(str(gone), hard=True)
    assert await stream_linker(store).handle(events) == {}
    assert await linked(store) == [events[2].event_id]
    assert await stream_linker(store).handle(events[:2]) == {}


@needs_dumps
async def test_in_an_adopted_database_it_goes_on_where_the_original_stopped(databases: Databases) -> None:
    order_id = uuid4()
    async with restored(databases, "clean") as url:
        await adopt(url, lambda *_: None)
        async with AdoptedStore.open(url, 4) as store, open_connection(url) as other:
            before = await linked(store)
            assert before
            added = await as_the_original_appends(other, str(order_id), "Order.OrderCreated", b"{}")
            async with handling(store, stream_linker(store)):
                await handled_up_to_now(store, NAME)
            assert await linked(store) == [*before, added]
            assert await nothing_parked(store, NAME)
            # From the origin on, too: what the original has linked is not linked again.
            await store.pool.execute("update public.subscriptions set last_seen = 0")
            async with handling(store, stream_linker(store)):
                await handled_up_to_now(store, NAME)
            assert await linked(store) == [*before, added]
