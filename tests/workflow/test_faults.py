"""What goes wrong around the order process: stores that are away, workers that die, others that come in between."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from itertools import chain
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from activities import all_activities
from api.commands import Commands
from api.problems import Unavailable
from dev.leash import leashed
from domain.commands import Receipt
from domain.ids import shipment_id
from domain.refusals import OrderAlreadyCreated, OrderNumberTaken, ProductsBlocked, Refusal
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Claim, NewEvent
from faults import Real, answers_lost, interposed, meanwhile, unreachable
from ordering import BLOCKED, PRODUCT, Orders, command, working
from settings import Settings
from support import eventually
from temporal_servers import CONTINUE_SOON, temporal_server
from workflows.messages import OrderStart, workflow_id
from workflows.pipeline import UNAVAILABLE
from workflows.worker import order_worker


@pytest.fixture
async def orders(temporal: Client, store: PostgresStore) -> AsyncGenerator[Orders]:
    async with working(temporal, store) as commands:
        yield commands
        await no_task_has_failed(commands)


async def no_task_has_failed(orders: Orders) -> None:
    """Whatever happens to a command, its run goes on: a workflow task that fails is a bug, and is tried for ever."""

    async def runs():
        listed = orders.client.list_workflows(f"TaskQueue = '{orders.task_queue}'")
        return [history async for history in listed.map_histories()]

    for run in await eventually(runs):
        assert not [event for event in run.events if event.HasField("workflow_task_failed_event_attributes")]


def worker(
    client: Client,
    store: PostgresStore,
    queue: str,
    snapshot_interval: Callable[[str], int] = lambda _: 0,
    shutdown_timeout: float = 10,
) -> Worker:
    activities = all_activities(store, claim_lease=5, snapshot_interval=snapshot_interval)
    return order_worker(client, activities, task_queue=queue, sandboxed=True, shutdown_timeout=shutdown_timeout)


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


def another_program_adds(store: PostgresStore, order_id: UUID, product: str) -> Callable[..., Awaitable[object]]:
    item = {"id": str(order_id), "product_id": product, "quantity": 1, "uom": "KG"}
    append = store.append

    async def add(*_: object) -> None:
        event = NewEvent(uuid4(), "Order.OrderItemAdded", orjson.dumps(item))
        await append(Append(str(order_id), "stream_exists", [event]))

    return add


# --- The event store


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
    orders.start = impatient
    await orders.create(order_id)
    with gone_after_append(store):
        await unavailable(orders.complete(order_id, **command))
    await eventually(lambda: orders.types(shipment_id(order_id)))
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


# --- Others that come in between


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


# --- Workers


async def test_every_run_can_be_brought_back_from_its_history_at_any_moment(temporal, store):
    order_id = uuid4()
    async with working(temporal, store, max_cached_workflows=0) as orders:
        await orders.create(order_id, items=3)
        await orders.add(order_id, product=BLOCKED)
        with pytest.raises(ProductsBlocked):
            await orders.complete(order_id)
        await store.unblock_product(UUID(BLOCKED))
        assert (await orders.complete(order_id)).settled_position > 0
        await orders.ship(order_id)
        assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"
        await no_task_has_failed(orders)


async def test_a_command_in_the_hands_of_a_worker_that_is_stopped_is_finished_by_another(
    temporal, store, event_store_url
):
    order_id, queue = uuid4(), f"test-{uuid4()}"
    orders = Orders(temporal, store, queue)
    reached = asyncio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with PostgresStore.open(event_store_url) as its_store:
        async with worker(temporal, its_store, queue, shutdown_timeout=0.1):
            await orders.create(order_id)
            with interposed(its_store, "append", hang):
                adding = asyncio.create_task(orders.add(order_id))
                await asyncio.wait_for(reached.wait(), 10)
        async with worker(temporal, store, queue):
            assert (await adding).version == 2
            await no_task_has_failed(orders)


@asynccontextmanager
async def worker_process(temporal: Client, url: str, queue: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    environment = {
        "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
        "WAYBILL_EVENT_STORE_URL": url,
        "WAYBILL_TASK_QUEUE": queue,
        "WAYBILL_PROJECTIONS": "false",
    }
    process = await asyncio.create_subprocess_exec(
        *leashed([sys.executable, "-P", "-m", "worker"], signal.SIGKILL), env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_command_in_the_hands_of_a_worker_that_is_killed_is_finished_by_another(
    temporal, store, event_store_url
):
    order_id, queue = uuid4(), f"test-{uuid4()}"
    orders = Orders(temporal, store, queue)
    orders.task_timeout = timedelta(seconds=1)
    lock = await asyncpg.connect(event_store_url)
    try:
        async with worker_process(temporal, event_store_url, queue) as killed, lock.transaction():
            # The head of the global sequence: whoever appends waits for it.
            await lock.execute("select from public.streams where stream_id = 0 for update")
            creating = asyncio.create_task(orders.create(order_id))
            await eventually(lambda: _waiting(lock), within=20)
            killed.kill()
            await killed.wait()
        async with worker_process(temporal, event_store_url, queue):
            assert (await asyncio.wait_for(creating, 30)).version == 1
            assert (await orders.add(order_id)).version == 2
        assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded"]
        await no_task_has_failed(orders)
    finally:
        await lock.close()


async def _waiting(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    # Within a transaction the server shows the same picture again.
    await connection.execute("select pg_stat_clear_snapshot()")
    return await connection.fetchval(
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    )


# --- Continue-as-new


async def test_no_command_is_lost_while_the_run_continues_as_new_again_and_again(store):
    order_id = uuid4()
    async with temporal_server(CONTINUE_SOON) as server, working(server.client, store) as orders:
        gateway = Commands(server.client, store, Settings(task_queue=orders.task_queue))
        await orders.create(order_id)

        item = {"id": str(order_id), "product_id": PRODUCT, "quantity": 1, "uom": "KG"}

        async def add_ten() -> list[int]:
            requests = [command("AddOrderItem", order_id, item) for _ in range(10)]
            return [(await gateway.perform(request, order_id)).version for request in requests]

        added = await asyncio.gather(*(add_ten() for _ in range(5)))
        assert sorted(chain.from_iterable(added)) == list(range(2, 52))
        assert await orders.types(order_id) == ["OrderCreated", *["OrderItemAdded"] * 50]
        await orders.complete(order_id)
        await orders.ship(order_id)

        async def statuses():
            runs = server.client.list_workflows(f"WorkflowId = '{workflow_id(order_id)}'")
            found = [run.status async for run in runs]
            assert found.count(WorkflowExecutionStatus.COMPLETED) == 1
            return found

        continued = (await eventually(statuses)).count(WorkflowExecutionStatus.CONTINUED_AS_NEW)
        assert continued >= 2
        await no_task_has_failed(orders)
