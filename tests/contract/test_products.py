"""An order's blocked products: by what is kept of its products, and the events that came after."""

from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from domain.order import Event, OrderCompleted, OrderCreated, OrderItemAdded
from domain.values import RecordedItem
from eventstore.codec import UndecodableEvent, encode
from eventstore.products import blocked_in, keep_products
from eventstore.store import EventStore, KeptProducts, NewEvent, StreamDeleted
from tests.contract.appends import APPLES, PEARS, append, event

ORDER, STREAM = UUID(APPLES), APPLES
FIGS = UUID("00000000-0000-4000-8000-000000000001")
PLUMS = UUID("ffffffff-ffff-4fff-bfff-ffffffffffff")


async def happened(store: EventStore, *events: Event) -> None:
    await append(store, STREAM, *(NewEvent(uuid4(), *encode(each)) for each in events))


def created(*products: UUID) -> OrderCreated:
    items = tuple(RecordedItem(product_id=product, quantity=Decimal(1), uom="KG") for product in products)
    return OrderCreated(id=ORDER, order_number="A-1", business_partner="ann@example.com", items=items)


def added(product: UUID) -> OrderItemAdded:
    return OrderItemAdded(id=ORDER, product_id=product, quantity=Decimal(1), uom="KG")


async def test_an_order_that_does_not_exist_has_no_products(store: EventStore) -> None:
    assert await blocked_in(store, STREAM) == (0, [])
    await keep_products(store, STREAM)
    assert await store.kept_products(STREAM) == KeptProducts(0, [])


@pytest.mark.parametrize("keeping", [False, True])
async def test_blocked_products_are_found_however_they_came_into_the_order(store: EventStore, keeping: bool) -> None:
    for product in (FIGS, PLUMS):
        await store.block_product(product)
    await happened(store, created(uuid4(), PLUMS), added(uuid4()))
    if keeping:
        await keep_products(store, STREAM)
    assert await blocked_in(store, STREAM) == (2, [PLUMS])
    await happened(store, added(FIGS), added(PLUMS), OrderCompleted(id=ORDER))
    if keeping:
        await keep_products(store, STREAM)
    assert await blocked_in(store, STREAM) == (5, [FIGS, PLUMS])


async def test_what_is_blocked_is_asked_each_time(store: EventStore) -> None:
    await happened(store, created(PLUMS))
    await keep_products(store, STREAM)
    assert await blocked_in(store, STREAM) == (1, [])
    await store.block_product(PLUMS)
    assert await blocked_in(store, STREAM) == (1, [PLUMS])
    await store.unblock_product(PLUMS)
    assert await blocked_in(store, STREAM) == (1, [])


async def test_what_is_kept_spares_reading_the_events_before(store: EventStore) -> None:
    await append(store, STREAM, event("Order.OrderItemAdded", b"no JSON"))
    await happened(store, added(FIGS))
    with pytest.raises(UndecodableEvent):
        await blocked_in(store, STREAM)
    # Not what the events say: so that it can be told which of the two was read.
    await store.block_product(PLUMS)
    await store.keep_products(STREAM, [PLUMS], seen=0, version=2)
    assert await blocked_in(store, STREAM) == (2, [PLUMS])


async def test_products_are_kept_only_on_top_of_what_was_seen(store: EventStore) -> None:
    await happened(store, created(uuid4()), added(uuid4()), added(uuid4()))
    for product in (FIGS, PLUMS):
        await store.block_product(product)
    # Nothing is kept yet: what comes after version 1 would be half of the truth.
    await store.keep_products(STREAM, [PLUMS], seen=1, version=2)
    assert await store.kept_products(STREAM) == KeptProducts(0, [])
    await store.keep_products(STREAM, [PLUMS], seen=0, version=2)
    for seen in (0, 1, 3):
        await store.keep_products(STREAM, [FIGS], seen=seen, version=3)
        assert await store.kept_products(STREAM) == KeptProducts(2, [PLUMS])
    await store.keep_products(STREAM, [FIGS], seen=2, version=3)
    assert await store.kept_products(STREAM) == KeptProducts(3, [FIGS, PLUMS])


async def test_products_of_one_order_are_not_those_of_another(store: EventStore) -> None:
    await store.block_product(PLUMS)
    await happened(store, created(PLUMS))
    await append(store, PEARS, event())
    await keep_products(store, STREAM)
    assert await store.kept_products(PEARS) == KeptProducts(0, [])


async def test_what_is_kept_goes_with_the_stream(store: EventStore) -> None:
    await store.block_product(PLUMS)
    await happened(store, created(PLUMS), added(PLUMS))
    await keep_products(store, STREAM)
    await store.delete_stream(STREAM, hard=True)
    await happened(store, created(FIGS))
    assert await blocked_in(store, STREAM) == (1, [])


@pytest.mark.parametrize("keeping", [False, True])
async def test_a_deleted_order_has_no_products(store: EventStore, keeping: bool) -> None:
    await happened(store, created(PLUMS))
    if keeping:
        await keep_products(store, STREAM)
    await store.delete_stream(STREAM)
    with pytest.raises(StreamDeleted):
        await blocked_in(store, STREAM)
