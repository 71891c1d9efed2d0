"""What the order process makes of others that come in between: another program, another order."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import UUID, uuid4

import orjson
import pytest
from temporalio.client import Client

from domain.refusals import OrderNumberTaken, ProductsBlocked
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Claim, NewEvent
from faults import meanwhile
from ordering import BLOCKED, PRODUCT, Orders, no_task_has_failed, working


@pytest.fixture
async def orders(temporal: Client, store: PostgresStore) -> AsyncGenerator[Orders]:
    async with working(temporal, store) as commands:
        yield commands
        await no_task_has_failed(commands)


def another_program_adds(store: PostgresStore, order_id: UUID, product: str) -> Callable[..., Awaitable[object]]:
    item = {"id": str(order_id), "product_id": product, "quantity": 1, "uom": "KG"}
    append = store.append

    async def add(*_: object) -> None:
        event = NewEvent(uuid4(), "Order.OrderItemAdded", orjson.dumps(item))
        await append(Append(str(order_id), "stream_exists", [event]))

    return add


@pytest.mark.parametrize("moment", ["load", "append"])
async def test_an_order_that_moved_while_it_was_completed_is_looked_at_again(orders, store, moment):
    order_id = uuid4()
    await orders.create(order_id)
    with meanwhile(store, moment, another_program_adds(store, order_id, PRODUCT)) as moved:
        assert (await orders.complete(order_id)).version == 3
    assert moved
    assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded", "OrderCompleted"]


@pytest.mark.parametrize("moment", ["load", "append"])
async def test_a_blocked_product_that_came_in_while_the_order_was_completed_is_seen(orders, store, moment):
    order_id = uuid4()
    await orders.create(order_id)
    with (
        meanwhile(store, moment, another_program_adds(store, order_id, BLOCKED)) as moved,
        pytest.raises(ProductsBlocked),
    ):
        await orders.complete(order_id)
    assert moved


async def test_a_reservation_that_was_lost_is_made_again(orders, store):
    order_id, command_id = uuid4(), uuid4()
    claim = Claim("order_number", "A-1", order_id)

    async def lose_reservation(*_: object) -> None:
        assert await store.release(claim, command_id)

    with meanwhile(store, "append", lose_reservation) as lost:
        assert (await orders.create(order_id, number="A-1", command_id=command_id)).status == "OPEN"
    assert lost
    assert await store.claim_owner("order_number", "A-1") == order_id


async def test_a_number_that_another_order_got_after_the_reservation_was_lost_is_taken(orders, store):
    slow, quick, command_id = uuid4(), uuid4(), uuid4()

    async def another_gets_it(*_: object) -> None:
        await store.release(Claim("order_number", "A-1", slow), command_id)
        await orders.create(quick, number="A-1")

    with meanwhile(store, "append", another_gets_it), pytest.raises(OrderNumberTaken):
        await orders.create(slow, number="A-1", command_id=command_id)
    assert await orders.types(slow) == []
    assert await store.claim_owner("order_number", "A-1") == quick
