"""An event that can't be applied is set aside and holds up what depends on it; everything else goes on."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

import projections.verify
from command_line import CommandLine
from domain.order import OrderCompleted
from eventstore.codec import UPCASTERS
from eventstore.postgres import PostgresStore
from eventstore.store import EventStore
from projecting import added, append, append_all, append_raw, caught_up, created, projecting, rows, whole_life
from projections import parking
from projections.orders import ORDERS
from projections.projection import Happened, Projection
from projections.shipments import SHIPMENTS
from support import eventually


@dataclass
class Fault:
    """A mistake in how orders are applied, until it is mended."""

    orders: set[UUID] = field(default_factory=set)
    tried: list[int] = field(default_factory=list)
    """The sizes of the batches that were tried."""

    @property
    def projection(self) -> Projection:
        async def apply(connection: Any, batch: Sequence[Happened]) -> None:
            self.tried.append(len(batch))
            await ORDERS.apply(connection, batch)
            if any(happened.aggregate_id in self.orders for happened in batch):
                raise ZeroDivisionError("a mistake")

        return replace(ORDERS, apply=apply)


@dataclass
class ReadSide:
    """Both stores, and their projections at work, with a mistake if one is made."""

    event_store_url: str
    read_store_url: str
    store: EventStore
    fault: Fault

    @property
    def urls(self) -> tuple[str, str]:
        return self.event_store_url, self.read_store_url

    @property
    def waybill(self) -> CommandLine:
        return CommandLine(
            {"WAYBILL_EVENT_STORE_URL": self.event_store_url, "WAYBILL_READ_STORE_URL": self.read_store_url}
        )

    def projecting(self, **options: Any) -> Any:
        return projecting(self.store, *self.urls, projections=[self.fault.projection, SHIPMENTS], **options)

    async def caught_up(self) -> None:
        await caught_up(self.store, self.read_store_url, within=30)

    async def status_of(self, order_id: UUID) -> str | None:
        found = await rows(self.read_store_url, "select status from orders where id = $1", order_id)
        return found[0][0] if found else None

    async def parked(self, subscriber: str = "orders") -> list[tuple[Any, ...]]:
        """Position and state of what is parked."""
        statement = "select position, state from waybill.parked where subscriber = $1 order by position"
        return await rows(self.read_store_url, statement, subscriber)

    async def retry_all(self) -> None:
        connection = await asyncpg.connect(self.read_store_url)
        await parking.request_retry([connection], None, None)
        await connection.close()

    async def nothing_is_parked(self) -> bool:
        return await self.parked() == []

    async def findings(self) -> list[tuple[str, str]]:
        found = await projections.verify.verify(self.read_store_url, self.store, lambda *_: None)
        return [(finding.kind, finding.subject.split()[0]) for finding in found]


@pytest.fixture
async def read_side(event_store_url: str, read_store_url: str) -> AsyncGenerator[ReadSide]:
    async with PostgresStore.open(event_store_url, pool_size=4) as store:
        yield ReadSide(event_store_url, read_store_url, store, Fault())


Poison = Callable[[ReadSide, UUID], Awaitable[str]]


async def an_unknown_type(read_side: ReadSide, order_id: UUID) -> str:
    await append_raw(read_side.store, str(order_id), "Order.OrderPraised", b"{}")
    return "nobody here knows its type"


async def broken_json(read_side: ReadSide, order_id: UUID) -> str:
    await append_raw(read_side.store, str(order_id), "Order.OrderItemAdded", b'{"id": ')
    return ""


async def another_shape(read_side: ReadSide, order_id: UUID) -> str:
    await append_raw(read_side.store, str(order_id), "Order.OrderItemAdded", b'{"id": null}')
    return "uuid_type at /id"


async def a_mistake_in_our_code(read_side: ReadSide, order_id: UUID) -> str:
    read_side.fault.orders.add(order_id)
    await append(read_side.store, str(order_id), added(order_id))
    return "ZeroDivisionError: a mistake"


async def a_text_that_no_table_holds(read_side: ReadSide, order_id: UUID) -> str:
    data = orjson.dumps({"id": str(order_id), "product_id": str(uuid4()), "quantity": 1, "uom": "K\0G"})
    await append_raw(read_side.store, str(order_id), "Order.OrderItemAdded", data)
    return "CharacterNotInRepertoireError"


async def a_row_that_breaks_a_constraint(read_side: ReadSide, order_id: UUID) -> str:
    connection = await asyncpg.connect(read_side.read_store_url)
    await connection.execute("alter table order_items add constraint light check (quantity < 1000)")
    await connection.close()
    data = orjson.dumps({"id": str(order_id), "product_id": str(uuid4()), "quantity": 1000, "uom": "KG"})
    await append_raw(read_side.store, str(order_id), "Order.OrderItemAdded", data)
    return 'CheckViolationError: new row for relation "order_items" violates check constraint "light"'


@pytest.mark.parametrize(
    "poison",
    [
        an_unknown_type,
        broken_json,
        another_shape,
        a_mistake_in_our_code,
        a_text_that_no_table_holds,
        a_row_that_breaks_a_constraint,
    ],
)
async def test_poison_parks_its_stream_and_the_shipment_behind_it_while_others_complete_and_ship(
    read_side: ReadSide, poison: Poison
):
    store, poisoned, healthy = read_side.store, uuid4(), [uuid4() for _ in range(20)]
    (_, creation), *_, shipped = whole_life(poisoned)
    await append(store, str(poisoned), creation)
    async with read_side.projecting():
        await read_side.caught_up()
        # One batch has it all, poison in the middle.
        for order_id in healthy[:10]:
            await append_all(store, whole_life(order_id))
        reason = await poison(read_side, poisoned)
        await append_all(store, [(str(poisoned), OrderCompleted(id=poisoned)), *whole_life(poisoned)[3:4]])
        for order_id in healthy[10:]:
            await append_all(store, whole_life(order_id))
        await read_side.caught_up()
        # What comes later stands behind it, too.
        await append_all(store, [shipped])
        await read_side.caught_up()

        assert {await read_side.status_of(order_id) for order_id in healthy} == {"SHIPPED"}
        assert await read_side.status_of(poisoned) == "OPEN"
        assert [state for _, state in await read_side.parked()] == ["failed", "behind", "behind", "behind"]
        assert await read_side.parked("shipments") == []
        first = "select stream_id, reason, attempts from waybill.parked where state = 'failed'"
        ((stream, told, attempts),) = await rows(read_side.read_store_url, first)
        assert (stream, attempts) == (str(poisoned), 1)
        assert reason in told
    # Everything else is as the events say; the next owner knows what waits.
    assert await read_side.findings() == [("parked-event", "orders")] * 4
    async with read_side.projecting():
        await append(store, str(poisoned), added(poisoned))
        await read_side.caught_up()
        assert len(await read_side.parked()) == 5


async def test_an_event_of_an_unknown_type_in_a_stream_of_others_is_nothing_to_a_projection(read_side: ReadSide):
    order_id = uuid4()
    await append_all(read_side.store, whole_life(order_id))
    await append_raw(read_side.store, "a customer", "Customer.Registered", b"whatever")
    await append_raw(read_side.store, "a customer", "Order.OrderPraised", b"whatever")
    async with read_side.projecting():
        await read_side.caught_up()
    assert await read_side.nothing_is_parked()
    assert await read_side.findings() == []


async def a_life_with_an_unknown_type(read_side: ReadSide) -> UUID:
    order_id = uuid4()
    life = whole_life(order_id)
    await append_all(read_side.store, life[:1])
    await an_unknown_type(read_side, order_id)
    await append_all(read_side.store, life[1:])
    return order_id


async def test_when_its_type_is_known_a_retry_brings_the_order_up_to_date(
    read_side: ReadSide, monkeypatch: pytest.MonkeyPatch
):
    order_id = await a_life_with_an_unknown_type(read_side)
    async with read_side.projecting():
        await read_side.caught_up()
        assert await read_side.status_of(order_id) == "OPEN"
        assert await read_side.parked("shipments") == []
        monkeypatch.setitem(UPCASTERS, "Order.OrderPraised", lambda _: [])  # pyright: ignore[reportArgumentType] - a dict
        await read_side.retry_all()
        await eventually(read_side.nothing_is_parked)
    assert await read_side.status_of(order_id) == "SHIPPED"


async def test_when_the_next_owner_knows_its_type_the_order_is_brought_up_to_date(
    read_side: ReadSide, monkeypatch: pytest.MonkeyPatch
):
    order_id = await a_life_with_an_unknown_type(read_side)
    async with read_side.projecting():
        await read_side.caught_up()
        assert await read_side.status_of(order_id) == "OPEN"
    # As after a deploy: nobody has to say so.
    monkeypatch.setitem(UPCASTERS, "Order.OrderPraised", lambda _: [])  # pyright: ignore[reportArgumentType] - a dict
    async with read_side.projecting():
        await eventually(read_side.nothing_is_parked)
    assert await read_side.status_of(order_id) == "SHIPPED"


async def test_what_fails_is_tried_again_and_only_then_parked(read_side: ReadSide):
    order_id, healthy = uuid4(), uuid4()
    read_side.fault.orders.add(order_id)
    await append(read_side.store, str(order_id), created(order_id))
    with capture_logs() as logs:
        async with read_side.projecting():
            await eventually(lambda: len(read_side.fault.tried) == 2, every=0.001)
            read_side.fault.orders.clear()
            await append_all(read_side.store, whole_life(healthy))
            await read_side.caught_up()
    assert await read_side.status_of(order_id) == "OPEN"
    assert not [entry for entry in logs if entry["event"] == "projection.parked"]
    assert await read_side.nothing_is_parked()


async def test_a_fault_of_long_ago_is_no_reason_to_park_without_another_try(read_side: ReadSide):
    order_id, unlucky, healthy = uuid4(), uuid4(), uuid4()
    read_side.fault.orders.add(order_id)
    async with read_side.projecting():
        await append(read_side.store, str(order_id), created(order_id))
        await read_side.caught_up()
        await append_all(read_side.store, whole_life(healthy))
        await read_side.caught_up()
        read_side.fault.orders.add(unlucky)
        tried = len(read_side.fault.tried)
        await append(read_side.store, str(unlucky), created(unlucky))
        await eventually(lambda: len(read_side.fault.tried) == tried + 2, every=0.001)
        read_side.fault.orders.clear()
        await read_side.caught_up()
    assert await read_side.parked() == [(1, "failed")]


async def test_the_owner_alone_tells_how_many_streams_are_held_up(read_side: ReadSide):
    def told() -> float | None:
        return REGISTRY.get_sample_value("waybill_projection_held_up_streams", {"build": "orders"})

    async with read_side.projecting():
        await a_poisoned_order(read_side)
        # The order's, and its shipment's.
        assert told() == 2
    assert told() is None


async def test_an_event_is_looked_for_by_halves_and_its_neighbours_are_not_applied_one_by_one(read_side: ReadSide):
    poisoned = uuid4()
    for _ in range(12):
        await append_all(read_side.store, whole_life(uuid4()))
    await append(read_side.store, str(poisoned), created(poisoned))
    for _ in range(6):
        await append_all(read_side.store, whole_life(uuid4()))
    read_side.fault.orders.add(poisoned)
    async with read_side.projecting():
        await read_side.caught_up()
    assert await read_side.parked() == [(61, "failed")]
    # Halves that fail, halves that don't, and a few attempts at the one that is left.
    assert len(read_side.fault.tried) <= 2 * 7 + 3


# --- Retry


async def a_poisoned_order(read_side: ReadSide) -> UUID:
    """Created and shown; its second event is parked, and with it what follows up to the shipment's end."""
    order_id = uuid4()
    life = whole_life(order_id)
    await append_all(read_side.store, life[:1])
    await read_side.caught_up()
    read_side.fault.orders.add(order_id)
    await append_all(read_side.store, life[1:])
    await read_side.caught_up()
    assert [state for _, state in await read_side.parked()] == ["failed", "behind", "behind", "behind"]
    return order_id


async def test_when_the_mistake_is_mended_a_retry_brings_the_order_up_to_date(read_side: ReadSide):
    async with read_side.projecting():
        order_id = await a_poisoned_order(read_side)
        read_side.fault.orders.clear()

        told = await read_side.waybill("parked", "retry", str(order_id))

        assert told.code == 0, told
        await eventually(read_side.nothing_is_parked)
        assert await read_side.status_of(order_id) == "SHIPPED"
        items = await rows(read_side.read_store_url, "select line from order_items order by line")
        assert items == [(0,), (1,), (2,)]
        # And from here on it is an order like any other.
        assert await read_side.findings() == []


async def test_a_retry_that_fails_again_says_so_and_keeps_all_in_order(read_side: ReadSide):
    async with read_side.projecting():
        order_id = await a_poisoned_order(read_side)

        told = await read_side.waybill("parked", "retry", str(order_id))

        assert told.code == 1
        assert "ZeroDivisionError: a mistake" in told.out
        assert [state for _, state in await read_side.parked()] == ["failed", "behind", "behind", "behind"]
        attempts = "select attempts from waybill.parked where state = 'failed'"
        assert await rows(read_side.read_store_url, attempts) == [(2,)]
        assert await read_side.status_of(order_id) == "OPEN"

        read_side.fault.orders.clear()
        await read_side.retry_all()
        await eventually(read_side.nothing_is_parked)
    assert await read_side.status_of(order_id) == "SHIPPED"


async def test_events_that_come_during_a_retry_stay_behind_those_that_came_before(read_side: ReadSide):
    async with read_side.projecting():
        orders = [await a_poisoned_order(read_side)]
        for _ in range(4):
            order_id = uuid4()
            read_side.fault.orders.add(order_id)
            await append(read_side.store, str(order_id), created(order_id))
            orders.append(order_id)
        read_side.fault.orders.clear()

        async def follow(order_id: UUID) -> None:
            for _ in range(15):
                await append(read_side.store, str(order_id), added(order_id))

        await asyncio.gather(read_side.retry_all(), *(follow(order_id) for order_id in orders[1:]))
        await read_side.caught_up()
        await eventually(read_side.nothing_is_parked)
    assert await read_side.findings() == []


async def test_a_retry_is_done_by_whoever_is_the_next_owner(read_side: ReadSide):
    async with read_side.projecting():
        order_id = await a_poisoned_order(read_side)
    read_side.fault.orders.clear()
    await read_side.retry_all()
    async with read_side.projecting():
        await eventually(read_side.nothing_is_parked)
    assert await read_side.status_of(order_id) == "SHIPPED"
    assert await read_side.findings() == []


# --- Discard


async def test_without_the_event_that_was_discarded_the_order_goes_on(read_side: ReadSide):
    order_id = uuid4()
    life = whole_life(order_id)
    await append_all(read_side.store, life[:1])
    await append_raw(read_side.store, str(order_id), "Order.OrderItemAdded", b"broken")
    await append_all(read_side.store, life[2:])
    async with read_side.projecting():
        await read_side.caught_up()

        told = await read_side.waybill("parked", "discard", str(order_id))

        assert told.code == 0, told

        async def only_the_discarded_is_left() -> bool:
            return await read_side.parked() == [(2, "discarded")]

        await eventually(only_the_discarded_is_left)
        assert await read_side.status_of(order_id) == "SHIPPED"
        assert await read_side.findings() == []

        # It stays so when all is built anew, unless somebody wants it otherwise.
        assert (await read_side.waybill("projection", "rebuild", "orders")).code == 0
        assert await read_side.parked() == [(2, "discarded")]
        assert (await read_side.waybill("projection", "rebuild", "orders", "--with-discarded")).code == 0
        assert [state for _, state in await read_side.parked()] == ["failed", "behind", "behind", "behind"]


async def test_the_shipment_goes_on_when_only_it_stood_behind_the_event_that_was_discarded(read_side: ReadSide):
    order_id = uuid4()
    life = whole_life(order_id)
    await append_raw(read_side.store, str(order_id), "Order.OrderCreated", b"broken")
    await append_all(read_side.store, life[3:])
    async with read_side.projecting():
        await read_side.caught_up()
        assert [state for _, state in await read_side.parked()] == ["failed", "behind", "behind"]
        # No worker looks while somebody discards it, so none sees it go.
    await rows(
        read_side.read_store_url,
        "update waybill.parked set state = 'discarded' where subscriber = 'orders' and position = 1",
    )
    async with read_side.projecting():

        async def only_the_discarded_is_left() -> bool:
            return await read_side.parked() == [(1, "discarded")]

        await eventually(only_the_discarded_is_left)


# --- Rebuild


async def test_a_rebuild_parks_what_the_new_code_cannot_apply_and_forgets_what_it_can(read_side: ReadSide):
    store, mended, broken = read_side.store, uuid4(), uuid4()
    read_side.fault.orders.add(mended)
    await append(store, str(mended), created(mended))
    await append_raw(store, str(broken), "Order.OrderCreated", b"{}")
    async with read_side.projecting():
        await read_side.caught_up()
    assert await read_side.parked() == [(1, "failed"), (2, "failed")]

    told = await read_side.waybill("projection", "rebuild", "orders")

    assert told.code == 0
    assert told.err.endswith("Parked: 1; see `waybill parked list --subscriber orders`\n")
    assert await read_side.parked() == [(2, "failed")]
    assert await read_side.status_of(mended) == "OPEN"
    assert await read_side.findings() == [("parked-event", "orders")]
