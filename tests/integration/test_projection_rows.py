"""What the rows of the read models are, and that they don't depend on how the events come in batches."""

from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from databases import Databases
from domain import ids, order, shipment
from domain.aggregates import ORDER, SHIPMENT, Event
from domain.order import OrderCompleted, OrderCreated, OrderDeleted
from domain.shipment import ShipmentCompleted, ShipmentCreated
from eventstore.codec import decode
from eventstore.memory import MemoryStore
from eventstore.store import RecordedEvent
from projecting import added, append, append_all, created, random_chaos, random_lives, tables, whole_life
from projections.migrate import migrate
from projections.registry import PROJECTIONS

Connection = Any
BEGAN = datetime(2026, 1, 31, 12, tzinfo=UTC)


class Clock:
    """A minute later each time."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=1)
        return self.now


@pytest.fixture(scope="module")
async def read_store_of_all(databases: Databases) -> AsyncGenerator[Connection]:
    async with databases.empty(migrate) as url:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


@pytest.fixture
async def read_store(read_store_of_all: Connection) -> Connection:
    await clear(read_store_of_all)
    return read_store_of_all


async def clear(connection: Connection) -> None:
    await connection.execute("delete from orders; delete from order_items; delete from shipments")


async def recorded(history: Sequence[tuple[str, Event]]) -> list[RecordedEvent]:
    store = MemoryStore(Clock())
    await append_all(store, history)
    return await store.read_all(limit=100_000)


async def project(connection: Connection, events: Sequence[RecordedEvent]) -> None:
    """As one batch."""
    for projection in PROJECTIONS:
        mine = [event for event in events if event.type in projection.types]
        async with connection.transaction():
            await projection.apply(connection, [it for event in mine for it in projection.understand(event)])


async def test_a_created_order_is_open_with_its_items_in_their_order(read_store: Connection):
    order_id = uuid4()
    (event,) = events = await recorded([(str(order_id), created(order_id, items=2))])

    await project(read_store, events)

    row = await read_store.fetchrow("select * from orders")
    assert dict(row) == {
        "id": order_id,
        "order_number": "A-1",
        "business_partner": "anna@example.com",
        "status": "OPEN",
        "version": 1,
        "shipment_id": None,
        "shipment_version": None,
        "position": 1,
        "inserted_at": event.created_at,
        "updated_at": event.created_at,
    }
    items = await read_store.fetch("select order_id, line, quantity, uom from order_items order by line")
    assert [tuple(item.values()) for item in items] == [
        (order_id, 0, Decimal("1.5"), "KG"),
        (order_id, 1, Decimal("2.5"), "KG"),
    ]


async def test_an_added_item_is_the_orders_last_line(read_store: Connection):
    order_id = uuid4()
    history = [(str(order_id), created(order_id, items=2)), (str(order_id), added(order_id))]
    first, second = await recorded(history)

    await project(read_store, [first])
    await project(read_store, [second])

    lines = await read_store.fetch("select line, uom, inserted_at from order_items order by line")
    assert [(line["line"], line["uom"]) for line in lines] == [(0, "KG"), (1, "KG"), (2, "MT")]
    assert lines[2]["inserted_at"] == second.created_at
    row = await read_store.fetchrow("select version, inserted_at, updated_at from orders")
    assert tuple(row.values()) == (2, first.created_at, second.created_at)


@pytest.mark.parametrize(
    ("events", "status", "version", "shipment_version"),
    [(1, "OPEN", 1, None), (3, "COMPLETED", 3, None), (4, "COMPLETED", 3, 1), (5, "SHIPPED", 3, 2)],
)
async def test_an_order_is_open_then_completed_then_shipped(
    read_store: Connection, events: int, status: str, version: int, shipment_version: int | None
):
    order_id = uuid4()

    await project(read_store, (await recorded(whole_life(order_id)))[:events])

    row = await read_store.fetchrow("select status, version, shipment_id, shipment_version from orders")
    its_shipment = ids.shipment_id(order_id) if shipment_version else None
    assert tuple(row.values()) == (status, version, its_shipment, shipment_version)


async def test_a_shipment_is_open_until_it_has_gone_out(read_store: Connection):
    order_id = uuid4()
    events = await recorded(whole_life(order_id))

    await project(read_store, events[:4])
    before = await read_store.fetchrow("select * from shipments")
    await project(read_store, events[4:])
    after = await read_store.fetchrow("select * from shipments")

    assert tuple(before.values())[:5] == (ids.shipment_id(order_id), order_id, "OPEN", 1, 4)
    assert tuple(after.values())[:5] == (ids.shipment_id(order_id), order_id, "COMPLETED", 2, 4)
    assert (after["inserted_at"], after["updated_at"]) == (events[3].created_at, events[4].created_at)


@pytest.mark.parametrize("cut", [1, 2])
async def test_a_deleted_order_is_in_no_table(read_store: Connection, cut: int):
    order_id, other = uuid4(), uuid4()
    events = await recorded(
        [
            (str(order_id), created(order_id, items=3)),
            (str(order_id), OrderDeleted(id=order_id)),
            (str(other), created(other)),
        ]
    )

    await project(read_store, events[:cut])
    await project(read_store, events[cut:])

    assert [row["id"] for row in await read_store.fetch("select id from orders")] == [other]
    assert [row["order_id"] for row in await read_store.fetch("select order_id from order_items")] == [other]


async def test_events_about_orders_and_shipments_that_never_were_make_no_rows(read_store: Connection):
    order_id, shipment_id = uuid4(), uuid4()

    await project(
        read_store,
        await recorded(
            [
                (str(order_id), added(order_id)),
                (str(order_id), OrderCompleted(id=order_id)),
                (str(order_id), OrderDeleted(id=order_id)),
                (str(shipment_id), ShipmentCompleted(id=shipment_id)),
            ]
        ),
    )

    assert await tables(read_store) == {"orders": [], "order_items": [], "shipments": []}


async def test_an_event_belongs_to_its_stream_whatever_id_its_data_name(read_store: Connection):
    order_id, stream = uuid4(), uuid4()

    await project(
        read_store,
        await recorded([(str(order_id), created(order_id)), (str(stream), OrderCompleted(id=order_id))]),
    )

    assert await read_store.fetchval("select status from orders") == "OPEN"


async def test_an_order_keeps_its_first_shipment(read_store: Connection):
    order_id, another = uuid4(), uuid4()
    history = whole_life(order_id)
    history[4:4] = [(str(another), ShipmentCreated(id=another, order_id=order_id))]

    await project(read_store, await recorded(history))

    assert await read_store.fetchval("select shipment_id from orders") == ids.shipment_id(order_id)
    assert await read_store.fetchval("select count(*) from shipments where order_id = $1", order_id) == 2


@pytest.mark.parametrize("seed", range(5))
async def test_every_row_is_the_fold_of_its_stream(read_store: Connection, seed: int):
    events = await recorded(random_lives(Random(seed), orders=40))

    await project(read_store, events)

    streams: dict[UUID, list[Event]] = {}
    for event in events:
        streams.setdefault(UUID(event.stream_id), []).extend(decode(event))
    shipments: dict[UUID, tuple[Any, ...]] = {}
    for stream, history in streams.items():
        state = SHIPMENT.fold(event for event in history if isinstance(event, SHIPMENT.events))
        if not isinstance(state, shipment.Absent):
            shipments[state.order_id] = (stream, SHIPMENT.status(state), len(history))
    orders: dict[UUID, tuple[Any, ...]] = {}
    for stream, history in streams.items():
        state = ORDER.fold(event for event in history if isinstance(event, ORDER.events))
        if isinstance(state, order.Open | order.Completed):
            its_shipment, shipped, version = shipments.get(stream, (None, None, None))
            status = "SHIPPED" if shipped == "COMPLETED" else ORDER.status(state)
            orders[stream] = (state.order_number, status, len(history), its_shipment, version)

    found = await read_store.fetch(
        "select id, order_number, status, version, shipment_id, shipment_version from orders"
    )
    assert {row["id"]: tuple(row.values())[1:] for row in found} == orders
    assert {
        row["order_id"]: (row["id"], row["status"], row["version"])
        for row in await read_store.fetch("select * from shipments")
    } == shipments

    counted = await read_store.fetch("select order_id, count(*), max(line) + 1 as lines from order_items group by 1")
    assert {row["order_id"]: (row["count"], row["lines"]) for row in counted} == {
        order_id: (items := _items(streams[order_id]), items) for order_id in orders
    }


def _items(history: Sequence[Event]) -> int:
    return sum(len(event.items) if isinstance(event, OrderCreated) else hasattr(event, "uom") for event in history)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("make", [random_lives, random_chaos])
async def test_however_events_are_cut_into_batches_the_rows_are_the_same(read_store: Connection, make: Any, seed: int):
    random = Random(seed)
    events = await recorded(make(random, 25))

    await project(read_store, events)
    in_one_batch = await tables(read_store)
    await clear(read_store)
    for event in events:
        await project(read_store, [event])
    one_by_one = await tables(read_store)
    await clear(read_store)
    cuts = sorted({0, len(events), *(random.randrange(len(events)) for _ in range(5))})
    for first, last in pairwise(cuts):
        await project(read_store, events[first:last])
    in_some_batches = await tables(read_store)

    assert one_by_one == in_one_batch
    assert in_some_batches == in_one_batch


async def test_the_last_change_is_the_latest_even_if_a_clock_ran_backwards(read_store: Connection):
    order_id = uuid4()
    times = iter([BEGAN, BEGAN - timedelta(seconds=1)])
    store = MemoryStore(lambda: next(times, BEGAN))
    await append(store, str(order_id), created(order_id))
    await append(store, str(order_id), OrderCompleted(id=order_id))

    await project(read_store, await store.read_all())

    row = await read_store.fetchrow("select status, inserted_at, updated_at from orders")
    assert row["status"] == "COMPLETED"
    assert row["updated_at"] >= row["inserted_at"]
