"""The handler `shipment`: every completed order gets its shipment, and none a second one."""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from uuid import UUID, uuid4

import orjson
import pytest
from structlog.testing import capture_logs
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from databases import Databases
from domain.ids import shipment_id
from domain.order import OrderCompleted
from elixir import as_the_original_appends, needs_dumps, restored
from eventstore.adopt import adopt
from eventstore.adopted import AdoptedStore
from eventstore.claims import SHIPMENT
from eventstore.codec import encode
from eventstore.pool import open_connection
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Claim, NewEvent
from handling import handled_up_to_now, handling, happen, nothing_parked, states
from ordering import Orders, working
from projecting import append_all, created
from projections import parking
from projections.handlers import driver
from projections.handlers.shipment import NAME, Wake, watchdog
from support import eventually
from workflows.messages import workflow_id
from workflows.runs import wake

MANY = int(os.environ.get("WAYBILL_TEST_RUNS", "200"))
CREATED = ["ShipmentCreated"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_FIRST_PAUSE", 0.2)


def waking(client: Client, task_queue: str) -> Wake:
    return partial(wake, client, task_queue=task_queue, idle_seconds=3600, step_seconds=30)


def watching(orders: Orders, store: PostgresStore):
    return handling(store, watchdog(store, waking(orders.client, orders.task_queue), ripe_after=0.1))


async def terminated(orders: Orders, order_id: UUID) -> None:
    await orders.client.get_workflow_handle(workflow_id(order_id)).terminate()


async def completed_elsewhere(store: PostgresStore, order_id: UUID) -> None:
    await append_all(store, [(str(order_id), OrderCompleted(id=order_id))])


async def runs(orders: Orders) -> int:
    return (await orders.client.count_workflows(f"TaskQueue = '{orders.task_queue}'")).count


async def test_a_completed_order_whose_run_was_terminated_gets_its_shipment(orders: Orders, store: PostgresStore):
    order_id = uuid4()
    await orders.create(order_id)
    # The operator was faster than the run.
    await terminated(orders, order_id)
    await completed_elsewhere(store, order_id)
    async with watching(orders, store):
        await eventually(lambda: orders.types(shipment_id(order_id)), within=30)
        await eventually(lambda: nothing_parked(store, NAME))
    assert await orders.types(shipment_id(order_id)) == CREATED
    assert (await orders.ship(order_id)).status == "COMPLETED"


async def test_an_order_that_another_program_completes_gets_its_shipment_from_the_run_that_lives(
    orders: Orders, store: PostgresStore
):
    order_id = uuid4()
    await orders.create(order_id)
    first = await orders.client.get_workflow_handle(workflow_id(order_id)).describe()
    await completed_elsewhere(store, order_id)
    async with watching(orders, store):
        await eventually(lambda: orders.types(shipment_id(order_id)), within=30)
    now = await orders.client.get_workflow_handle(workflow_id(order_id)).describe()
    assert now.run_id == first.run_id
    assert (await orders.ship(order_id)).status == "COMPLETED"


async def test_a_run_that_makes_its_shipment_itself_is_left_alone(orders: Orders, store: PostgresStore):
    order_id = uuid4()
    await orders.create(order_id)
    await orders.complete(order_id)
    async with watching(orders, store):
        await handled_up_to_now(store, NAME)
    history = await orders.client.get_workflow_handle(workflow_id(order_id)).fetch_history()
    assert not [e for e in history.events if e.HasField("workflow_execution_signaled_event_attributes")]
    assert await states(store, NAME) == {}
    assert await orders.types(shipment_id(order_id)) == CREATED


async def test_many_runs_that_were_terminated_at_once_are_all_made_up_for(
    temporal: Client, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(driver, "_FIRST_PAUSE", 2.0)
    ids = [uuid4() for _ in range(MANY)]
    await append_all(store, [(str(order_id), created(order_id, number=f"M-{order_id}")) for order_id in ids])
    await append_all(store, [(str(order_id), OrderCompleted(id=order_id)) for order_id in ids])
    # Unsandboxed, as a worker is.
    async with working(temporal, store, sandboxed=False) as orders, watching(orders, store):
        await eventually(lambda: all_shipped(store, ids), within=60 + MANY / 5, every=0.2)
        # Those that were late are looked at after a longer pause.
        await eventually(lambda: nothing_parked(store, NAME), within=60, every=0.2)
    assert await shipments(store) == sorted(str(shipment_id(order_id)) for order_id in ids)


async def all_shipped(store: PostgresStore, ids: list[UUID]) -> bool:
    return len(await shipments(store)) >= len(ids)


async def shipments(store: PostgresStore) -> list[str]:
    events = await store.read_all(types=["Shipment.ShipmentCreated"], limit=10_000)
    return sorted(event.stream_id for event in events)


async def test_two_watchdogs_and_a_doubled_delivery_make_one_shipment(orders: Orders, store: PostgresStore):
    order_id = uuid4()
    await append_all(store, [(str(order_id), created(order_id)), (str(order_id), OrderCompleted(id=order_id))])
    events = await store.read_all(types=["Order.OrderCompleted"])
    dog = watchdog(store, waking(orders.client, orders.task_queue))
    await asyncio.gather(*(dog.handle(events) for _ in range(4)))
    await eventually(lambda: orders.types(shipment_id(order_id)), within=30)
    assert await dog.handle(events) == {}
    assert await orders.types(shipment_id(order_id)) == CREATED
    assert await runs(orders) <= 1


async def test_while_temporal_is_away_nothing_is_lost(orders: Orders, store: PostgresStore):
    order_id, away = uuid4(), True
    await append_all(store, [(str(order_id), created(order_id)), (str(order_id), OrderCompleted(id=order_id))])

    async def not_always(*who: object) -> None:
        if away:
            raise ConnectionError("Temporal: UNAVAILABLE")
        await waking(orders.client, orders.task_queue)(*who)  # pyright: ignore[reportArgumentType]

    async with handling(store, watchdog(store, not_always, ripe_after=0)):
        await handled_up_to_now(store, NAME)
        (waiting,) = await parking.listed([store.pool], NAME, limit=2)
        assert (waiting.state, waiting.reason) == ("waiting", "Temporal can't be reached, or refuses us")
        away = False
        await eventually(lambda: orders.types(shipment_id(order_id)), within=30)
        await eventually(lambda: nothing_parked(store, NAME))


async def test_a_server_that_refuses_an_order_is_told_apart_from_one_that_refuses_us_or_is_away(temporal: Client):
    class Refusing:
        def __init__(self, status: RPCStatusCode) -> None:
            self.status = status

        async def start_workflow(self, *_: object, **__: object) -> None:
            raise RPCError("no", self.status, b"")

    for status in (RPCStatusCode.UNAVAILABLE, RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.NOT_FOUND):
        with pytest.raises(ConnectionError):
            await waking(Refusing(status), "q")(uuid4(), "N", "p")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RPCError):
        await waking(Refusing(RPCStatusCode.INVALID_ARGUMENT), "q")(uuid4(), "N", "p")  # pyright: ignore[reportArgumentType]


# --- What can't be shipped


@asynccontextmanager
async def never_woken(store: PostgresStore) -> AsyncGenerator[list[UUID]]:
    woken: list[UUID] = []

    async def note(order_id: UUID, *_: str) -> None:
        woken.append(order_id)

    async with handling(store, watchdog(store, note, ripe_after=0)):
        yield woken


async def test_orders_that_never_existed_or_are_closed_are_passed_over_and_said_so(store: PostgresStore):
    never, closed, odd = uuid4(), uuid4(), "no UUID"
    await happen(store, never, "Order.OrderCompleted", data=b'{"id": null}')
    await append_all(store, [(str(closed), created(closed)), (str(closed), OrderCompleted(id=closed))])
    await store.delete_stream(str(closed))
    await happen(store, odd, "Order.OrderCompleted", data=b'{"id": null}')
    with capture_logs() as logs:
        async with never_woken(store) as woken:
            await handled_up_to_now(store, NAME)
    assert (woken, await states(store, NAME)) == ([], {})
    told = {entry["stream_id"] for entry in logs if entry["event"] == "shipment.passed_over"}
    assert told == {str(never), str(closed), odd}


async def test_an_order_that_cannot_be_read_is_parked_with_the_reason_until_it_can(store: PostgresStore):
    order_id = uuid4()
    await append_all(store, [(str(order_id), created(order_id))])
    await happen(store, order_id, "Order.OrderItemAdded", data=b"{}")
    await completed_elsewhere(store, order_id)
    async with never_woken(store) as woken:
        await handled_up_to_now(store, NAME)
    (parked,) = await parking.listed([store.pool], NAME, limit=2)
    assert (parked.state, parked.attempts, woken) == ("failed", 1, [])
    assert parked.reason.startswith("the order can't be read: event ")


async def test_an_order_that_cannot_be_read_as_was_told_at_adoption_is_passed_over(store: PostgresStore):
    order_id = uuid4()
    await append_all(store, [(str(order_id), created(order_id))])
    [broken] = await happen(store, order_id, "Order.OrderItemAdded", data=b"{}")
    await completed_elsewhere(store, order_id)

    async def never(*_: object) -> None:
        raise AssertionError("nobody knows what that order is")

    dog = watchdog(store, never, reported=lambda event: event.event_id == broken, ripe_after=0)
    with capture_logs() as logs:
        async with handling(store, dog):
            await handled_up_to_now(store, NAME)
    assert await states(store, NAME) == {}
    (told,) = [entry for entry in logs if entry["event"] == "shipment.passed_over"]
    assert "as was told at adoption" in told["reason"]


async def test_an_order_whose_run_cannot_be_started_is_parked_and_others_are_not(store: PostgresStore):
    bad, good = uuid4(), uuid4()
    for order_id in (bad, good):
        await append_all(store, [(str(order_id), created(order_id)), (str(order_id), OrderCompleted(id=order_id))])

    async def refuse(order_id: UUID, *_: str) -> None:
        if order_id == bad:
            raise RPCError("too long", RPCStatusCode.INVALID_ARGUMENT, b"")

    async with handling(store, watchdog(store, refuse, ripe_after=0)):
        await handled_up_to_now(store, NAME)
    found = {each.stream_id: each.state for each in await parking.listed([store.pool], NAME, limit=3)}
    assert found == {str(bad): "failed", str(good): "waiting"}


async def test_an_adopted_shipment_counts(store: PostgresStore):
    order_id, shipment = uuid4(), uuid4()
    await append_all(store, [(str(order_id), created(order_id)), (str(order_id), OrderCompleted(id=order_id))])
    claim = Claim(SHIPMENT, str(order_id), shipment)
    await store.reserve(claim, uuid4(), lease_seconds=60)
    data = orjson.dumps({"id": str(shipment), "order_id": str(order_id)})
    new = NewEvent(uuid4(), "Shipment.ShipmentCreated", data)
    await store.append(Append(str(shipment), "no_stream", [new], confirm=[claim]))
    async with never_woken(store) as woken:
        await handled_up_to_now(store, NAME)
    assert (woken, await states(store, NAME)) == ([], {})


@needs_dumps
async def test_in_an_adopted_database_it_goes_on_where_the_original_stopped(temporal: Client, databases: Databases):
    order_id = uuid4()
    async with restored(databases, "clean") as url:
        await adopt(url, lambda *_: None)
        async with (
            AdoptedStore.open(url, 4) as store,
            open_connection(url) as other,
            working(temporal, store) as orders,
        ):
            kind, data = encode(created(order_id, number="adopted"))
            await as_the_original_appends(other, str(order_id), kind, data)
            kind, data = encode(OrderCompleted(id=order_id))
            await as_the_original_appends(other, str(order_id), kind, data)
            async with watching(orders, store):
                await eventually(lambda: orders.types(shipment_id(order_id)), within=30)
                await eventually(lambda: nothing_parked(store, NAME))
            assert await runs(orders) <= 1
            # From the origin on, too: nobody gets a second shipment.
            before = await store.stream_version("$all")
            await store.pool.execute("update public.subscriptions set last_seen = 0")
            async with watching(orders, store):
                await handled_up_to_now(store, NAME)
            assert await states(store, NAME) == {}
            assert await store.stream_version("$all") == before
