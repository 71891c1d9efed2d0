"""Orders whose shipments have ids that another program made up, and orders that can't be read."""

import asyncio
from uuid import UUID, uuid4

import orjson
import pytest

from domain.ids import shipment_id
from domain.refusals import Refusal
from eventstore.claims import SHIPMENT
from eventstore.store import Append, Claim, EventStore, NewEvent
from ordering import Orders, command
from workflows.messages import OrderStart, workflow_id


async def refusal(sent) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await sent
    return raised.value


async def has_happened(store: EventStore, stream: UUID, kind: str, data: dict[str, str | None]) -> None:
    await store.append(Append(str(stream), "any", [NewEvent(uuid4(), kind, orjson.dumps(data))]))


async def adopt_shipment(store: EventStore, order_id: UUID) -> UUID:
    """The order has a shipment that another program has created; adoption has claimed it."""
    shipment = uuid4()
    data: dict[str, str | None] = {"id": str(shipment), "order_id": str(order_id)}
    event = NewEvent(uuid4(), "Shipment.ShipmentCreated", orjson.dumps(data))
    claim = Claim(SHIPMENT, str(order_id), shipment)
    await store.reserve(claim, uuid4(), lease_seconds=60)
    await store.append(Append(str(shipment), "no_stream", [event], confirm=[claim]))
    return shipment


def reviving(order_id: UUID) -> OrderStart:
    return OrderStart.reviving(order_id, idle_seconds=60, step_seconds=5)


def complete_shipment(orders: Orders, order_id: UUID, shipment: UUID):
    sent = command("CompleteShipment", order_id, {"id": str(shipment)})
    return orders.send("complete_shipment", sent, order_id)


async def test_the_run_of_an_adopted_order_owes_it_no_second_shipment(orders: Orders):
    order_id = uuid4()
    await orders.create(order_id)
    await has_happened(orders.store, order_id, "Order.OrderCompleted", {"id": str(order_id)})
    shipment = await adopt_shipment(orders.store, order_id)
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    orders.start = reviving

    assert (await refusal(orders.add(order_id))).code == "order-already-completed"
    shipped = await complete_shipment(orders, order_id, shipment)

    assert (shipped.id, shipped.order_id, shipped.status) == (shipment, order_id, "COMPLETED")
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"
    assert await orders.types(shipment_id(order_id)) == []


async def test_an_order_that_had_its_shipment_before_it_was_completed_gets_no_other(orders: Orders):
    order_id, command_id = uuid4(), uuid4()
    await orders.create(order_id)
    shipment = await adopt_shipment(orders.store, order_id)

    completed = await orders.complete(order_id, command_id=command_id)
    assert completed.shipment_id == shipment
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    assert await orders.complete(order_id, command_id=command_id) == completed

    await complete_shipment(orders, order_id, shipment)
    assert await orders.types(shipment_id(order_id)) == []


async def test_a_shipment_of_another_order_is_not_found_here(orders: Orders):
    first, second = uuid4(), uuid4()
    for order_id in (first, second):
        await orders.create(order_id)
        await orders.complete(order_id)

    assert (await refusal(complete_shipment(orders, first, shipment_id(second)))).code == "shipment-not-found"
    assert await orders.types(shipment_id(second)) == ["ShipmentCreated"]


async def test_a_shipments_command_for_another_order_is_rejected_without_a_trace(orders: Orders):
    first, second = uuid4(), uuid4()
    await orders.create(first)
    handle = orders.client.get_workflow_handle(workflow_id(first))
    before = (await handle.describe()).raw_description.workflow_execution_info.history_length

    astray = command("CompleteShipment", second, {"id": str(shipment_id(second))})
    refused = await refusal(orders.send("complete_shipment", astray, first))

    assert refused.message == f"This update takes the command CompleteShipment for {first}"
    assert (await handle.describe()).raw_description.workflow_execution_info.history_length == before


async def test_an_order_that_cannot_be_read_is_refused_at_once_and_its_run_ends(orders: Orders):
    order_id = uuid4()
    await orders.create(order_id)
    await has_happened(orders.store, order_id, "Order.OrderItemAdded", {"id": None})
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    orders.start = reviving

    # The command's own patience with faults is 15 seconds.
    refused = await asyncio.wait_for(refusal(orders.complete(order_id)), 10)

    assert refused.code == "history-unreadable"
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "unreadable"


async def test_an_unreadable_history_is_no_answer_for_ever(orders: Orders):
    order_id, command_id = uuid4(), uuid4()
    await orders.create(order_id)
    await has_happened(orders.store, order_id, "Order.OrderItemAdded", {"id": None})

    assert (
        await refusal(orders.complete(order_id, command_id=command_id, fingerprint="f"))
    ).code == "history-unreadable"

    recollection = await orders.store.recall(command_id, uuid4())
    assert recollection.answer is None
