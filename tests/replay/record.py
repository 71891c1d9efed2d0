"""Records histories/*.json from real runs on real servers: `make histories`, or only some with ARGS="NAME ...".

A recorded history is a promise to open runs that look like it. Once such runs may be open somewhere, add scenarios;
record one anew only to take its promise back.
"""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID, uuid5

import orjson
from temporalio.client import Client, WorkflowHandle, WorkflowHistory

import histories
from databases import Databases, private_server
from domain.ids import event_id, shipment_id
from domain.refusals import Refusal
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent
from faults import interposed, meanwhile, unreachable
from ordering import BLOCKED, PRODUCT, Orders, command, working
from support import eventually
from temporal_servers import CONTINUE_SOON, temporal_server
from workflows.messages import OrderStart, workflow_id
from workflows.runs import wake

HISTORIES = Path(__file__).parent / "histories"
_NAMES = UUID("5b1b4a36-5d0c-4c1e-9d5c-8a3e0a7d2f10")

Scenario = Callable[[Orders, UUID], Awaitable[None]]


async def whole_life(orders: Orders, order_id: UUID) -> None:
    await orders.create(order_id)
    await orders.complete(order_id)
    await orders.ship(order_id)


async def refused_creation(orders: Orders, order_id: UUID) -> None:
    await orders.create(uuid5(order_id, "another"), number="N-1")
    await _refused(orders.create(order_id, number="N-1"))
    await _run(orders, order_id).result()


async def broken_rules(orders: Orders, order_id: UUID) -> None:
    data = {"id": str(order_id), "order_number": "N-1", "business_partner": "nobody", "items": []}
    await _refused(orders.send("create_order", command("CreateOrder", order_id, data, fingerprint="f"), order_id))
    await _run(orders, order_id).result()


async def order_with_items_added(orders: Orders, order_id: UUID) -> None:
    await orders.create(order_id, items=3)
    await asyncio.gather(*(orders.add(order_id) for _ in range(3)))
    await orders.complete(order_id)
    await orders.ship(order_id)


async def deleted_order(orders: Orders, order_id: UUID) -> None:
    await orders.create(order_id)
    await orders.delete(order_id)
    await _run(orders, order_id).result()


async def blocked_then_unblocked(orders: Orders, order_id: UUID) -> None:
    await orders.create(order_id)
    await orders.add(order_id, product=BLOCKED)
    await _refused(orders.complete(order_id))
    await orders.store.unblock_product(UUID(BLOCKED))
    await orders.complete(order_id)
    await orders.ship(order_id)


async def continued_as_new(orders: Orders, order_id: UUID) -> None:
    await orders.create(order_id)
    first = await _run(orders, order_id).describe()
    while (await _run(orders, order_id).describe()).run_id == first.run_id:
        await orders.add(order_id)
    await orders.complete(order_id)
    await orders.ship(order_id)


async def idle_and_revived(orders: Orders, order_id: UUID) -> None:
    orders.start = lambda order_id: OrderStart(order_id=order_id, idle_seconds=0.2)
    await orders.create(order_id)
    await _run(orders, order_id).result()
    orders.start = _reviving
    await orders.complete(order_id)
    await orders.ship(order_id)


async def repeated_command(orders: Orders, order_id: UUID) -> None:
    """In another run: the run that knows the command answers without a trace in its history."""
    keyed = {"command_id": uuid5(order_id, "completion"), "fingerprint": "f"}
    await orders.create(order_id)
    await orders.complete(order_id, **keyed)
    await _run(orders, order_id).terminate()
    orders.start = _reviving
    await orders.complete(order_id, **keyed)


async def stale_precondition(orders: Orders, order_id: UUID) -> None:
    """The run stays open."""
    await orders.create(order_id)
    await orders.add(order_id)
    await _refused(orders.complete(order_id, expected_version=1))


async def steps_tried_again(orders: Orders, order_id: UUID) -> None:
    with unreachable(_store(orders), times=2):
        await whole_life(orders, order_id)


async def order_moved_on(orders: Orders, order_id: UUID) -> None:
    """Another program adds an item between the look at the order and its completion."""
    item = {"id": str(order_id), "product_id": PRODUCT, "quantity": 1, "uom": "KG"}
    event = NewEvent(event_id(order_id, 0), "Order.OrderItemAdded", orjson.dumps(item))
    await orders.create(order_id)

    async def add_item(*_: object) -> None:
        await real(Append(str(order_id), "stream_exists", [event]))

    real = orders.store.append
    with meanwhile(_store(orders), "load", add_item):
        await orders.complete(order_id)
    await orders.ship(order_id)


async def completed_by_another_program(orders: Orders, order_id: UUID) -> None:
    """The run that lives doesn't know of it until it is woken; later one is started by being woken."""
    event = NewEvent(event_id(order_id, 0), "Order.OrderCompleted", orjson.dumps({"id": str(order_id)}))
    await orders.create(order_id)
    await orders.store.append(Append(str(order_id), "stream_exists", [event]))
    await _wake(orders, order_id)
    await eventually(lambda: orders.types(shipment_id(order_id)), what="the shipment")
    await _run(orders, order_id).terminate()
    await _wake(orders, order_id)
    await orders.ship(order_id)


async def store_away(orders: Orders, order_id: UUID) -> None:
    """For longer than a step waits: the run doesn't know what was done, and looks the order up until it knows."""
    orders.start = lambda order_id: OrderStart(order_id=order_id, step_seconds=0.5)
    await orders.create(order_id)
    with unreachable(_store(orders)) as failed:
        await _refused(orders.add(order_id))
        await eventually(lambda: failed.count("read_stream") > 1, what="a look-up that failed")
    await orders.complete(order_id)
    await orders.ship(order_id)


async def unattended(orders: Orders, order_id: UUID) -> None:
    """Tried again after it was given up, and another command behind it."""
    orders.start = lambda order_id: OrderStart(order_id=order_id, step_seconds=0.5)
    await orders.create(order_id)
    with unreachable(_store(orders)) as failed:
        adding = asyncio.create_task(orders.add(order_id, unattended=True))
        await eventually(lambda: failed.count("load") > 12, within=30, what="a second round")
    await adding
    await orders.complete(order_id)
    await orders.ship(order_id)


async def shipment_delayed(orders: Orders, order_id: UUID) -> None:
    orders.start = lambda order_id: OrderStart(order_id=order_id, step_seconds=0.5)
    shipment = str(shipment_id(order_id))

    async def refuse_shipments(real: Callable[[], Awaitable[object]], append: Append) -> object:
        if append.stream_id == shipment:
            raise ConnectionError("no shipments now")
        return await real()

    await orders.create(order_id)
    with interposed(_store(orders), "append", refuse_shipments):
        await orders.complete(order_id)
    await eventually(lambda: orders.types(shipment_id(order_id)), what="the shipment")
    await orders.ship(order_id)


SCENARIOS: dict[str, Scenario] = {
    scenario.__name__: scenario
    for scenario in (
        whole_life,
        refused_creation,
        broken_rules,
        order_with_items_added,
        deleted_order,
        blocked_then_unblocked,
        continued_as_new,
        idle_and_revived,
        repeated_command,
        stale_precondition,
        steps_tried_again,
        order_moved_on,
        completed_by_another_program,
        store_away,
        unattended,
        shipment_delayed,
    )
}
RUNS = {"continued_as_new": 2, "idle_and_revived": 2, "repeated_command": 2, "completed_by_another_program": 2}
"""How many runs a scenario's order has, if not one."""


def poison(history: WorkflowHistory) -> WorkflowHistory:
    """The history of other code: where this code enriches the completion, that code has reserved something."""
    poisoned = WorkflowHistory.from_json(history.workflow_id, history.to_json_dict())
    for event in poisoned.events:
        if event.HasField("marker_recorded_event_attributes"):
            (step,) = event.marker_recorded_event_attributes.details["data"].payloads
            step.data = step.data.replace(b'"EnrichCommand"', b'"ReserveUniqueness"')
    return poisoned


async def record(names: Sequence[str]) -> None:
    """Drive the scenarios and write the histories of their runs."""
    async with (
        private_server() as databases,
        # The client's name is in the histories; by default it tells process and host.
        temporal_server(identity="recorder") as roomy,
        temporal_server(CONTINUE_SOON, identity="recorder") as cramped,
    ):
        for name in names:
            server = cramped if name == "continued_as_new" else roomy
            runs = await _drive(name, databases, server.client)
            for number, run in enumerate(runs, 1):
                _write(run, f"{name}-{number}" if len(runs) > 1 else name)
            if name == "whole_life":
                _write(poison(runs[0]), "poisoned")


async def _drive(name: str, databases: Databases, client: Client) -> list[WorkflowHistory]:
    order_id = uuid5(_NAMES, name)
    async with databases.empty(migrate) as url, PostgresStore.open(url) as store, working(client, store) as orders:
        await SCENARIOS[name](orders, order_id)

        async def all_runs() -> list[WorkflowHistory]:
            listed = client.list_workflows(f"WorkflowId = '{workflow_id(order_id)}'")
            runs = [history async for history in listed.map_histories()]
            assert len(runs) == RUNS.get(name, 1)
            return sorted(runs, key=lambda run: run.events[0].event_time.ToNanoseconds())

        return await eventually(all_runs)


def _write(history: WorkflowHistory, name: str) -> None:
    histories.write(_without_traces(history), HISTORIES / f"{name}.json")
    print(f"{name}: {len(history.events)} events")  # noqa: T201 - what was asked for


def _without_traces(history: WorkflowHistory) -> WorkflowHistory:
    """Tracebacks tell where the recorder's files are, and nothing to the replay."""
    kept = json.loads(history.to_json(), object_hook=lambda each: {k: v for k, v in each.items() if k != "stackTrace"})
    return WorkflowHistory.from_json(history.workflow_id, kept)


def _reviving(order_id: UUID) -> OrderStart:
    return OrderStart.reviving(order_id, idle_seconds=3600, step_seconds=15)


async def _wake(orders: Orders, order_id: UUID) -> None:
    queue = orders.task_queue
    await wake(orders.client, order_id, "N-1", "a@example.com", task_queue=queue, idle_seconds=3600, step_seconds=15)


def _run(orders: Orders, order_id: UUID) -> WorkflowHandle[object, object]:
    return orders.client.get_workflow_handle(workflow_id(order_id))


def _store(orders: Orders) -> PostgresStore:
    assert isinstance(orders.store, PostgresStore)
    return orders.store


async def _refused(sent: Awaitable[object]) -> None:
    try:
        await sent
    except Refusal:
        return
    raise AssertionError("It should have been refused")


if __name__ == "__main__":
    # The faults are made on purpose.
    logging.getLogger("temporalio").setLevel(logging.CRITICAL)
    asyncio.run(record(sys.argv[1:] or list(SCENARIOS)))
