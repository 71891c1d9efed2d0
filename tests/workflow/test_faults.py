"""What the order process makes of an event store that is away, hangs, or loses answers."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from api.commands import Commands
from api.problems import Unavailable
from domain.commands import Receipt
from domain.ids import shipment_id
from domain.refusals import OrderAlreadyCreated, ProductsBlocked, Refusal
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from eventstore.store import Append
from faults import Real, answers_lost, interposed, unreachable
from ordering import BLOCKED, PRODUCT, Orders, command, no_task_has_failed, worker, working
from settings import Settings
from support import eventually
from workflows.messages import OrderStart, workflow_id
from workflows.pipeline import UNAVAILABLE


@pytest.fixture
async def orders(temporal: Client, store: PostgresStore) -> AsyncGenerator[Orders]:
    async with working(temporal, store) as commands:
        yield commands
        await no_task_has_failed(commands)


def impatient(order_id: UUID) -> OrderStart:
    """A run whose steps are given up soon."""
    return OrderStart(order_id=order_id, step_seconds=0.5)


async def unavailable(sent: Awaitable[Receipt]) -> str:
    """Nobody knows what became of the command. Gives what is told of the reason."""
    with pytest.raises(Refusal) as raised:
        await asyncio.wait_for(sent, 15)
    cause: Any = raised.value.__cause__
    assert isinstance(cause.cause, ApplicationError)
    assert cause.cause.type == UNAVAILABLE
    return raised.value.message


@contextmanager
def gone_after_append(store: PostgresStore) -> Generator[None]:
    """An append is done, but before anybody hears of it the store is gone."""
    with ExitStack() as faults:

        async def go(real: Real, *_: Any) -> None:
            await real()
            faults.enter_context(unreachable(store))
            raise ConnectionError("the connection broke before the answer came")

        faults.enter_context(interposed(store, "append", go))
        yield


async def test_a_store_that_is_away_for_a_moment_delays_commands_and_does_nothing_else(orders, store):
    order_id = uuid4()
    with unreachable(store, times=2) as failed:
        await orders.create(order_id)
        assert (await orders.add(order_id)).version == 2
        assert (await orders.complete(order_id)).version == 3
        assert (await orders.ship(order_id)).version == 2
    assert {"reserve", "load", "append", "read_stream", "blocked_products"} <= set(failed)
    assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded", "OrderCompleted"]
    assert await orders.types(shipment_id(order_id)) == ["ShipmentCreated", "ShipmentCompleted"]


async def test_an_append_whose_answer_gets_lost_is_found_and_nothing_happens_twice(orders, store):
    order_id = uuid4()
    with answers_lost(store, "reserve", times=1) as reserved, answers_lost(store, "append") as appended:
        assert (await orders.create(order_id)).version == 1
        assert (await orders.add(order_id)).version == 2
        assert (await orders.complete(order_id)).version == 3
        assert (await orders.ship(order_id)).version == 2
    assert (len(reserved), len(appended)) == (1, 5)
    assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded", "OrderCompleted"]
    assert await orders.types(shipment_id(order_id)) == ["ShipmentCreated", "ShipmentCompleted"]


async def test_a_refusal_is_the_same_if_keeping_it_fails_or_its_answer_gets_lost(orders, store):
    order_id = uuid4()
    await orders.create(order_id)
    await orders.add(order_id, product=BLOCKED)
    for fault in (unreachable(store, "remember", times=1), answers_lost(store, "remember", times=1)):
        with fault as failed, pytest.raises(ProductsBlocked):
            await orders.complete(order_id, fingerprint="f")
        assert failed


async def test_a_refused_creation_gives_the_number_back_even_if_that_fails_at_first(orders, store):
    order_id = uuid4()
    await orders.create(order_id, number="A-1")
    for fault in (unreachable(store, "release", times=1), answers_lost(store, "release", times=1)):
        with fault as failed, pytest.raises(OrderAlreadyCreated):
            await orders.create(order_id, number="B-2")
        assert failed
    assert (await orders.create(uuid4(), number="B-2")).status == "OPEN"


async def test_a_creation_that_the_store_was_away_for_is_not_done_and_can_be_sent_again(orders, store):
    order_id, command_id = uuid4(), uuid4()
    orders.start = impatient
    with unreachable(store):
        message = await unavailable(orders.create(order_id, command_id=command_id))
    assert message.startswith("ReserveUniqueness has not succeeded for 0.5 s: ")
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "nothing"
    assert (await orders.create(order_id, command_id=command_id)).status == "OPEN"
    assert await orders.types(order_id) == ["OrderCreated"]


async def test_a_command_that_the_store_was_away_for_can_be_sent_again_to_the_same_run(orders, store):
    order_id, command_id = uuid4(), uuid4()
    orders.start = impatient
    await orders.create(order_id)
    with unreachable(store):
        await unavailable(orders.add(order_id, command_id=command_id))
    assert (await orders.add(order_id, command_id=command_id)).version == 2
    assert (await orders.complete(order_id)).settled_position > 0
    assert (await orders.ship(order_id)).status == "COMPLETED"
    assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"


async def test_a_command_that_nobody_waits_for_is_done_however_long_the_store_stays_away(orders, store):
    order_id = uuid4()
    gateway = Commands(orders.client, store, Settings(task_queue=orders.task_queue, command_timeout=0.5))
    orders.start = impatient
    await orders.create(order_id)
    data = {"id": str(order_id), "product_id": PRODUCT, "quantity": 1, "uom": "KG"}
    with unreachable(store) as failed:
        await gateway.submit(command("AddOrderItem", order_id, data, unattended=True), order_id)
        # Longer than a step is tried for: it was given up once, and begun anew.
        await eventually(lambda: failed.count("load") > 12, within=30)
        behind = asyncio.create_task(orders.add(order_id))
    assert (await behind).version == 3
    assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded", "OrderItemAdded"]
    assert (await orders.complete(order_id)).version == 4


async def test_a_command_that_nobody_waits_for_is_refused_like_any_other(orders, store):
    order_id = uuid4()
    gateway = Commands(orders.client, store, Settings(task_queue=orders.task_queue))
    await orders.create(order_id)
    await orders.complete(order_id)
    with pytest.raises(Refusal, match="Order already completed"):
        await gateway.submit(command("DeleteOrder", order_id, {"id": str(order_id)}, unattended=True), order_id)


async def test_a_caller_of_the_gateway_who_was_put_off_gets_the_answer_by_asking_again(orders, store):
    order_id = uuid4()
    gateway = Commands(orders.client, store, Settings(task_queue=orders.task_queue, command_timeout=0.5))
    await orders.create(order_id)
    item = {"id": str(order_id), "product_id": PRODUCT, "quantity": 1, "uom": "KG"}
    request = command("AddOrderItem", order_id, item, fingerprint="f")
    # The next run is the gateway's, with its patience.
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()
    with unreachable(store, "append"), pytest.raises(Unavailable):
        await gateway.perform(request, order_id)
    answer = await gateway.perform(request, order_id)
    assert (answer.status, answer.version) == ("OPEN", 2)
    assert await gateway.perform(request, order_id) == answer


@pytest.mark.parametrize("fingerprint", ["", "f"], ids=["unkeyed", "keyed"])
async def test_a_creation_that_was_done_without_anybody_knowing_is_found_when_it_is_sent_again(
    orders, store, fingerprint
):
    order_id, command = uuid4(), {"command_id": uuid4(), "fingerprint": fingerprint}
    orders.start = impatient
    with gone_after_append(store):
        await unavailable(orders.create(order_id, **command))
    assert await orders.types(order_id) == ["OrderCreated"]
    assert (await orders.create(order_id, **command)).version == 1
    assert (await orders.add(order_id)).version == 2


@pytest.mark.parametrize("fingerprint", ["", "f"], ids=["unkeyed", "keyed"])
async def test_a_completion_that_was_done_without_anybody_knowing_gets_its_shipment_all_the_same(
    orders, store, fingerprint
):
    order_id, command = uuid4(), {"command_id": uuid4(), "fingerprint": fingerprint}
    asked = {"request_id": "desk-17", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
    orders.start = impatient
    await orders.create(order_id)
    with gone_after_append(store):
        await unavailable(orders.complete(order_id, **command, **asked))
    await eventually(lambda: orders.types(shipment_id(order_id)))
    (created,) = await store.read_stream(str(shipment_id(order_id)))
    assert orjson.loads(created.metadata).items() >= asked.items()
    assert (await orders.complete(order_id, **command)).version == 2
    assert (await orders.ship(order_id)).version == 2


async def test_a_step_that_hangs_is_given_up_and_tried_again(orders, store):
    order_id = uuid4()
    orders.start = lambda order_id: OrderStart(order_id=order_id, step_seconds=1.5)
    calls: list[Append] = []

    async def hang_once(real: Real, append: Append) -> object:
        calls.append(append)
        return await (real() if len(calls) > 1 else asyncio.Event().wait())

    with interposed(store, "append", hang_once):
        assert (await orders.create(order_id)).version == 1
    assert len(calls) == 2


async def test_a_store_that_hangs_makes_a_command_unavailable(orders, store):
    orders.start = impatient

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    with interposed(store, "append", hang):
        await unavailable(orders.create(uuid4()))


async def test_a_completed_order_is_answered_and_gets_its_shipment_later_if_that_fails_for_a_while(orders, store):
    order_id = uuid4()
    orders.start = impatient

    async def no_shipments(real: Real, append: Append) -> object:
        if append.stream_id == str(shipment_id(order_id)):
            raise ConnectionError("no shipments now")
        return await real()

    await orders.create(order_id)
    with interposed(store, "append", no_shipments):
        completed = await orders.complete(order_id)
        assert (completed.status, completed.settled_position) == ("COMPLETED", -1)
        assert await orders.types(shipment_id(order_id)) == []
    await eventually(lambda: orders.types(shipment_id(order_id)))
    assert (await orders.ship(order_id)).status == "COMPLETED"


async def test_what_was_looked_up_in_trouble_does_not_replace_what_was_done_meanwhile(temporal, store):
    order_id, queue = uuid4(), f"test-{uuid4()}"
    orders = Orders(temporal, store, queue, lambda order_id: OrderStart(order_id=order_id, step_seconds=3))
    looked, done = asyncio.Event(), asyncio.Event()

    async def look_until_it_is_done(real: Real, stream_id: str, *_: Any) -> object:
        seen = await real()
        if stream_id == str(order_id) and not looked.is_set():
            looked.set()
            await done.wait()
        return seen

    async def wait_for_the_look(real: Real, *_: Any) -> object:
        await looked.wait()
        return await real()

    def last_act_of_a_step(_aggregate: str) -> int:
        if looked.is_set():
            done.set()
        return 0

    with ExitStack() as outage:
        async with worker(temporal, store, queue):
            await orders.create(order_id)
            outage.enter_context(unreachable(store))
            await unavailable(orders.add(order_id))
            await eventually(lambda: is_held_up(orders, order_id))
    # Without a worker the next command and the end of the pause come together: they are worked on at the same time.
    completing = asyncio.create_task(orders.complete(order_id))
    await eventually(lambda: pause_is_over(orders, order_id))
    with (
        interposed(store, "read_stream", look_until_it_is_done),
        interposed(store, "append", wait_for_the_look),
    ):
        async with worker(temporal, store, queue, snapshot_interval=last_act_of_a_step):
            completed = await completing
    assert completed.settled_position > 0
    assert await orders.types(shipment_id(order_id)) == ["ShipmentCreated"]
    await no_task_has_failed(orders)


async def pause_is_over(orders: Orders, order_id: UUID) -> bool:
    history = await orders.client.get_workflow_handle(workflow_id(order_id)).fetch_history()
    return any(event.HasField("timer_fired_event_attributes") for event in history.events)


async def is_held_up(orders: Orders, order_id: UUID) -> bool:
    run = orders.client.get_workflow_handle(workflow_id(order_id))
    shown = await run.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    return "held up" in shown.current_details


async def test_commands_go_on_after_postgresql_was_killed_and_started_again(temporal, private_postgres):
    order_id = uuid4()
    async with (
        private_postgres.empty(migrate) as url,
        PostgresStore.open(url) as store,
        working(temporal, store) as orders,
    ):
        await orders.create(order_id)
        await private_postgres.kill()
        refused = asyncio.Event()

        async def watched(real: Real, *_: Any) -> Any:
            try:
                return await real()
            except Exception:
                refused.set()
                raise

        with interposed(store, "load", watched):
            adding = asyncio.create_task(orders.add(order_id))
            await asyncio.wait_for(refused.wait(), 10)
        await private_postgres.start()
        assert (await adding).version == 2
        await no_task_has_failed(orders)
