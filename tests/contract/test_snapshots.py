"""Snapshots: a cache of folded states that may be missing, old or wrong, and never makes a state wrong."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from itertools import count
from uuid import UUID, uuid4, uuid5

import pytest
from structlog.testing import capture_logs

from domain.aggregates import ORDER
from domain.order import Event, Open, OrderCompleted, OrderCreated, OrderItemAdded
from domain.values import RecordedItem
from eventstore.codec import encode, encode_snapshot
from eventstore.repository import load
from eventstore.store import EventStore, NewEvent, Snapshot
from tests.contract.appends import APPLES, PEARS, append, event, events, ids

_orders = count(1)


def new_order() -> UUID:
    """An order that no other test has: what was said of a snapshot is not said again."""
    return uuid5(UUID(APPLES), str(next(_orders)))


@cache
def history(order_id: UUID) -> Sequence[Event]:
    item = RecordedItem(product_id=UUID(PEARS), quantity=Decimal(2), uom="KG")
    return (
        OrderCreated(id=order_id, order_number="A-1", business_partner="ann@example.com", items=(item,)),
        OrderItemAdded(id=order_id, product_id=UUID(PEARS), quantity=Decimal(3), uom="KG"),
        OrderCompleted(id=order_id),
    )


async def written(store: EventStore, order_id: UUID, *, until: int = 3) -> None:
    new = [NewEvent(uuid4(), *encode(each)) for each in history(order_id)[:until]]
    await append(store, str(order_id), *new, expected="no_stream")


def taken(order_id: UUID, version: int) -> Snapshot:
    """A good snapshot of the order at this version."""
    return encode_snapshot(ORDER, str(order_id), version, ORDER.fold(history(order_id)[:version]))


async def loaded(store: EventStore, order_id: UUID) -> object:
    return (await load(store, ORDER, str(order_id), uuid4())).state


# --- Good ones


async def test_a_state_without_a_snapshot_is_folded_from_all_events(store: EventStore) -> None:
    order_id = new_order()
    await written(store, order_id)
    assert await loaded(store, order_id) == ORDER.fold(history(order_id))


@pytest.mark.parametrize("version", [1, 2, 3])
async def test_a_state_is_folded_from_a_snapshot_and_what_came_after_it(store: EventStore, version: int) -> None:
    order_id = new_order()
    await written(store, order_id)
    await store.record_snapshot(taken(order_id, version))
    with capture_logs() as said:
        assert await loaded(store, order_id) == ORDER.fold(history(order_id))
    assert said == []


async def test_a_snapshot_spares_reading_what_is_before_it(store: EventStore) -> None:
    order_id = new_order()
    await written(store, order_id)
    # Not what the events say: so that it can be told which of the two was read.
    renamed = ORDER.fold(history(order_id)[:1]).model_copy(update={"order_number": "from the snapshot"})
    await store.record_snapshot(encode_snapshot(ORDER, str(order_id), 1, renamed))
    state = await loaded(store, order_id)
    assert getattr(state, "order_number", None) == "from the snapshot"


# --- Those that are no good


@pytest.mark.parametrize(
    "damage",
    [
        {"metadata": b'{"snapshot_module_version": 0}'},
        {"metadata": None},
        {"source_type": "Order.Aggregate.OlderOrder"},
        {"data": b'{"status": "OPEN"}'},
        {"data": b"\x83h\x02, no JSON"},
        {"data": b'{"status": "UNHEARD-OF"}'},
    ],
    ids=["older format", "no format", "another type", "undecodable", "no JSON", "an unknown status"],
)
async def test_a_snapshot_that_can_not_be_read_is_ignored_and_said_once(
    store: EventStore, damage: dict[str, bytes | str | None]
) -> None:
    order_id = new_order()
    await written(store, order_id)
    await store.record_snapshot(replace(taken(order_id, 2), **damage))
    with capture_logs() as said:
        for _ in range(3):
            assert await loaded(store, order_id) == ORDER.fold(history(order_id))
    assert [(line["event"], line["stream_id"], line["version"]) for line in said] == [
        ("snapshot.ignored", str(order_id), 2)
    ]


async def test_a_snapshot_ahead_of_its_stream_is_ignored_and_said_once(store: EventStore) -> None:
    order_id = new_order()
    await written(store, order_id, until=2)
    await store.record_snapshot(taken(order_id, 3))
    with capture_logs() as said:
        for _ in range(3):
            assert await loaded(store, order_id) == ORDER.fold(history(order_id)[:2])
    assert [(line["event"], line["reason"]) for line in said] == [("snapshot.ignored", "ahead of its stream")]


async def test_a_snapshot_ahead_of_its_stream_gives_way_to_the_next_one(store: EventStore) -> None:
    order_id = new_order()
    await written(store, order_id, until=2)
    await store.record_snapshot(taken(order_id, 3))
    await store.record_snapshot(taken(order_id, 2))
    assert (await store.load(str(order_id), uuid4())).snapshot == taken(order_id, 2)


async def test_events_of_types_that_nobody_here_knows_are_stepped_over(store: EventStore) -> None:
    order_id = new_order()
    await written(store, order_id, until=1)
    await append(store, str(order_id), event("Order.GiftWrapped", b"\x00 not even JSON"))
    state = await loaded(store, order_id)
    assert isinstance(state, Open)
    assert (await load(store, ORDER, str(order_id), uuid4())).version == 2


# --- Which of two is kept


def snapshot(version: int, stream_id: str = APPLES) -> Snapshot:
    return Snapshot(stream_id, version, "Fruit.Aggregate.Fruit", b'{"kg": 1}', b"{}")


async def test_a_newer_snapshot_takes_the_place_of_an_older_one(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    for version in (1, 4):
        await store.record_snapshot(snapshot(version))
    assert (await store.load(APPLES, uuid4())).snapshot == snapshot(4)


async def test_an_older_snapshot_never_takes_the_place_of_a_newer_one(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    for version in (4, 1, 3):
        await store.record_snapshot(snapshot(version))
    assert (await store.load(APPLES, uuid4())).snapshot == snapshot(4)


async def test_a_snapshot_belongs_to_its_stream(store: EventStore) -> None:
    for stream in (APPLES, PEARS):
        await append(store, stream, *events(3))
    await store.record_snapshot(snapshot(1, stream_id=APPLES))
    await store.record_snapshot(snapshot(2, stream_id=PEARS))
    assert (await store.load(APPLES, uuid4())).snapshot == snapshot(1, stream_id=APPLES)
    assert (await store.load(PEARS, uuid4())).snapshot == snapshot(2, stream_id=PEARS)


async def test_a_snapshot_is_kept_byte_for_byte(store: EventStore) -> None:
    kept = Snapshot(APPLES, 1, "Größe 🍎", b"\x00\xff, not JSON at all", None)
    await append(store, APPLES)
    await store.record_snapshot(kept)
    assert (await store.load(APPLES, uuid4())).snapshot == kept


# --- Of a stream that is removed


async def test_a_snapshot_that_comes_after_its_stream_was_removed_is_not_kept(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    await store.delete_stream(APPLES, hard=True)
    await store.record_snapshot(snapshot(3))
    await append(store, APPLES, *(news := events(5)))
    history = await store.load(APPLES, uuid4())
    assert (history.snapshot, ids(history.events)) == (None, ids(news))
