"""The order process on a real Temporal server, with a real event store."""

import asyncio
from uuid import uuid4

import orjson
import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.query.v1 import WorkflowQuery
from temporalio.api.workflowservice.v1 import QueryWorkflowRequest
from temporalio.client import Client, WorkflowExecutionStatus

from domain.ids import caused_command_id, event_id, shipment_id
from domain.refusals import Refusal, ValidationFailed
from eventstore.store import Append, NewEvent
from ordering import BLOCKED, command
from support import eventually
from workflows.messages import Memory, OrderStart, workflow_id


async def refusal(sent) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await sent
    return raised.value


async def test_an_order_goes_from_creation_to_shipment_in_one_run(orders):
    order_id = uuid4()
    created = await orders.create(order_id)
    assert (created.status, created.version, created.id) == ("OPEN", 1, order_id)
    added = await orders.add(order_id)
    assert (added.status, added.version) == ("OPEN", 2)
    completed = await orders.complete(order_id)
    assert (completed.status, completed.version, completed.shipment_id) == (
        "COMPLETED",
        3,
        shipment_id(order_id),
    )
    assert completed.settled_position == completed.position + 1
    shipped = await orders.ship(order_id)
    assert (shipped.id, shipped.order_id, shipped.status, shipped.version) == (
        shipment_id(order_id),
        order_id,
        "COMPLETED",
        2,
    )
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"
    assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded", "OrderCompleted"]
    assert await orders.types(shipment_id(order_id)) == ["ShipmentCreated", "ShipmentCompleted"]


async def test_events_name_their_cause_their_process_and_their_command(orders):
    order_id, command_id = uuid4(), uuid4()
    await orders.create(order_id)
    await orders.complete(order_id, command_id=command_id, actor="warehouse")
    completed = (await orders.store.read_stream(str(order_id)))[1]
    created = (await orders.store.read_stream(str(shipment_id(order_id))))[0]
    assert (completed.event_id, completed.causation_id) == (event_id(command_id, 0), command_id)
    assert created.causation_id == completed.event_id
    assert completed.correlation_id == created.correlation_id == order_id
    assert created.event_id == event_id(caused_command_id(completed.event_id, "CreateShipment"), 0)
    metadata = orjson.loads(completed.metadata)
    assert metadata["command"] == "CompleteOrder"
    assert metadata["actor"] == "warehouse"
    assert metadata["command_id"] == str(command_id)
    assert metadata["workflow_id"] == workflow_id(order_id)


async def test_a_whole_lifecycle_costs_at_most_6_state_transitions_and_36_history_events(orders):
    order_id = uuid4()
    await orders.create(order_id, items=3)
    await orders.complete(order_id)
    await orders.ship(order_id)
    handle = orders.client.get_workflow_handle(workflow_id(order_id))
    await handle.result()
    info = (await handle.describe()).raw_description.workflow_execution_info
    assert info.state_transition_count <= 6
    assert info.history_length <= 36


async def test_a_deleted_order_frees_its_number_and_ends_its_run(orders):
    first, second = uuid4(), uuid4()
    await orders.create(first, number="A-1")
    assert (await orders.delete(first)).status == "DELETED"
    assert await orders.client.get_workflow_handle(workflow_id(first)).result() == "deleted"
    assert (await orders.create(second, number="A-1")).status == "OPEN"
    assert (await refusal(orders.add(first))).code == "order-deleted"


async def test_a_number_that_is_taken_is_refused_and_the_run_ends(orders):
    first, second = uuid4(), uuid4()
    await orders.create(first, number="A-1")
    refused = await refusal(orders.create(second, number="A-1"))
    assert refused.code == "order-number-taken"
    assert await orders.client.get_workflow_handle(workflow_id(second)).result() == "nothing"
    assert await orders.types(second) == []


async def test_of_64_racers_for_a_number_one_gets_it(orders):
    racers = [uuid4() for _ in range(64)]
    outcomes = await asyncio.gather(*(orders.create(racer, number="ONE") for racer in racers), return_exceptions=True)
    assert [isinstance(outcome, Refusal) for outcome in outcomes].count(False) == 1
    assert {outcome.code for outcome in outcomes if isinstance(outcome, Refusal)} == {"order-number-taken"}
    assert len(await orders.store.read_all(types=["Order.OrderCreated"])) == 1


async def test_a_refused_creation_gives_the_number_back(orders):
    first, second = uuid4(), uuid4()
    await orders.create(first, number="A-1")
    assert (await refusal(orders.create(first, number="B-2"))).code == "order-already-created"
    assert (await orders.create(second, number="B-2")).status == "OPEN"


async def test_an_order_with_a_blocked_product_is_not_completed_until_it_is_unblocked(orders):
    order_id = uuid4()
    await orders.create(order_id)
    await orders.add(order_id, product=BLOCKED)
    refused = await refusal(orders.complete(order_id))
    assert refused.code == "products-blocked"
    assert refused.message == f"Order contains blocked products: {BLOCKED}"
    assert refused.details == {"product_ids": [BLOCKED]}
    await orders.store.unblock_product(BLOCKED)
    assert (await orders.complete(order_id)).status == "COMPLETED"


async def test_broken_rules_are_told_all_at_once_with_the_taken_number_among_them(orders):
    order_id = uuid4()
    await orders.create(uuid4(), number="A-1")
    data = {"id": str(order_id), "order_number": "A-1", "business_partner": "nobody", "items": []}
    refused = await refusal(orders.send("create_order", command("CreateOrder", order_id, data), order_id))
    assert refused.code == "validation-failed"
    assert isinstance(refused, ValidationFailed)
    assert {violation.pointer for violation in refused.violations} == {
        "/business_partner",
        "/items",
        "/order_number",
    }
    assert await orders.types(order_id) == []


async def test_a_command_that_comes_twice_has_one_effect_and_one_answer(orders):
    order_id, command_id = uuid4(), uuid4()
    await orders.create(order_id)
    first, second = await asyncio.gather(*(orders.add(order_id, command_id=command_id) for _ in range(2)))
    assert first == second
    await orders.complete(order_id)
    await orders.ship(order_id)
    # The run that knew the update is over; a new one finds the event.
    assert await orders.add(order_id, command_id=command_id) == first
    assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded", "OrderCompleted"]


async def test_a_repeated_completion_in_a_new_run_makes_no_second_shipment(orders):
    order_id, command_id = uuid4(), uuid4()
    await orders.create(order_id)
    first = await orders.complete(order_id, command_id=command_id, fingerprint="f")
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    again = await orders.complete(order_id, command_id=command_id, fingerprint="f")
    assert again == first.model_copy(update={"settled_position": 0})
    assert await orders.types(shipment_id(order_id)) == ["ShipmentCreated"]


async def test_a_repeated_creation_in_a_new_run_looks_up_what_has_come_after(orders):
    order_id = uuid4()
    keyed = {"command_id": uuid4(), "fingerprint": "f"}
    first = await orders.create(order_id, **keyed)
    await orders.complete(order_id)
    await orders.ship(order_id)
    assert await orders.create(order_id, **keyed) == first
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"


async def test_a_keyed_refusal_is_the_answer_for_ever(orders):
    order_id, command_id = uuid4(), uuid4()
    await orders.create(order_id)
    await orders.add(order_id, product=BLOCKED)
    keyed = {"command_id": command_id, "fingerprint": "f1"}
    first = await refusal(orders.complete(order_id, **keyed))
    await orders.store.unblock_product(BLOCKED)
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    again = await refusal(orders.complete(order_id, **keyed))
    assert (again.code, again.message, again.details) == (first.code, first.message, first.details)
    other = await refusal(orders.complete(order_id, command_id=command_id, fingerprint="f2"))
    # The run knows the update's id, and gives the first answer; the gateway compares fingerprints before.
    assert other.code in {"idempotency-key-reused", "products-blocked"}


async def test_a_key_that_made_an_event_is_refused_to_another_request(orders):
    first, second, command_id = uuid4(), uuid4(), uuid4()
    await orders.create(first, command_id=command_id, fingerprint="f1")
    assert (await refusal(orders.create(second, command_id=command_id, fingerprint="f2"))).code == (
        "idempotency-key-reused"
    )


async def test_a_stale_precondition_is_refused_and_the_right_one_is_not(orders):
    order_id = uuid4()
    await orders.create(order_id)
    await orders.add(order_id)
    assert (await refusal(orders.complete(order_id, expected_version=1))).code == "precondition-failed"
    assert (await orders.complete(order_id, expected_version=2)).version == 3


async def test_a_command_for_another_order_is_rejected_without_a_trace(orders):
    order_id = uuid4()
    await orders.create(order_id)
    handle = orders.client.get_workflow_handle(workflow_id(order_id))
    before = (await handle.describe()).raw_description.workflow_execution_info.history_length
    astray = command("DeleteOrder", order_id, {"id": str(uuid4())})
    refused = await refusal(orders.send("delete_order", astray, order_id))
    assert refused.message == f"This update takes the command DeleteOrder for {order_id}"
    assert (await handle.describe()).raw_description.workflow_execution_info.history_length == before


async def test_commands_of_one_order_are_done_one_at_a_time(orders):
    order_id = uuid4()
    await orders.create(order_id)
    receipts = await asyncio.gather(*(orders.add(order_id) for _ in range(8)))
    assert sorted(receipt.version for receipt in receipts) == list(range(2, 10))


async def test_an_idle_order_ends_its_run_and_the_next_command_revives_it(orders):
    order_id = uuid4()
    orders.start = lambda order_id: OrderStart(order_id=order_id, idle_seconds=0.2)
    await orders.create(order_id)
    handle = orders.client.get_workflow_handle(workflow_id(order_id))
    assert await asyncio.wait_for(handle.result(), 10) == "idle"
    orders.start = lambda order_id: OrderStart.reviving(order_id, idle_seconds=60, step_seconds=5)
    assert (await orders.complete(order_id)).status == "COMPLETED"
    assert (await orders.ship(order_id)).status == "COMPLETED"
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"


async def test_an_unknown_order_is_not_found_and_makes_no_stream(orders):
    order_id = uuid4()
    orders.start = lambda order_id: OrderStart.reviving(order_id, idle_seconds=60, step_seconds=5)
    for sent in (orders.add, orders.complete, orders.delete):
        assert (await refusal(sent(order_id))).code == "order-not-found"
    assert (await refusal(orders.ship(order_id))).code == "shipment-not-found"
    assert await orders.store.stream_version("$all") == 0
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "nothing"


async def test_a_run_that_was_terminated_after_completion_gets_its_shipment_when_it_is_revived(orders):
    order_id = uuid4()
    await orders.create(order_id)
    # The event of another program: no run saw it.
    data = orjson.dumps({"id": str(order_id)})
    await orders.store.append(Append(str(order_id), 1, [NewEvent(uuid4(), "Order.OrderCompleted", data)]))
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    orders.start = lambda order_id: OrderStart.reviving(order_id, idle_seconds=60, step_seconds=5)
    assert (await refusal(orders.add(order_id))).code == "order-already-completed"

    async def shipment_created():
        return await orders.types(shipment_id(order_id)) == ["ShipmentCreated"]

    await eventually(shipment_created)


async def test_a_run_continued_as_new_goes_on_where_it_was(orders):
    order_id = uuid4()
    await orders.create(order_id)
    await orders.add(order_id)
    orders.start = lambda order_id: OrderStart(order_id=order_id, memory=Memory(status="OPEN", commands=2))
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    await orders.complete(order_id)
    await orders.ship(order_id)
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"


async def test_a_person_sees_status_number_and_milestones(orders, temporal: Client):
    order_id = uuid4()
    await orders.create(order_id)
    await orders.complete(order_id)
    handle = temporal.get_workflow_handle(workflow_id(order_id))
    description = await handle.describe()
    assert description.status == WorkflowExecutionStatus.RUNNING
    assert description.search_attributes["OrderStatus"] == ["COMPLETED"]
    answer = await temporal.workflow_service.query_workflow(
        QueryWorkflowRequest(
            namespace=temporal.namespace,
            execution=WorkflowExecution(workflow_id=workflow_id(order_id)),
            query=WorkflowQuery(query_type="__temporal_workflow_metadata"),
        )
    )
    details = answer.query_result.payloads[0].data.decode()
    assert "CreateShipment" in details
    assert "**COMPLETED**" in details
