"""What tests of the read side share: histories to project, the projections at work, and the rows that come of it."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from decimal import Decimal
from random import Random
from subprocess import Popen
from typing import Any
from uuid import UUID, uuid4, uuid5

import asyncpg

from domain.aggregates import Event
from domain.ids import shipment_id
from domain.order import OrderCompleted, OrderCreated, OrderDeleted, OrderItemAdded
from domain.shipment import ShipmentCompleted, ShipmentCreated
from domain.values import RecordedItem
from eventstore.codec import encode
from eventstore.postgres import PostgresStore
from eventstore.store import Append, Appended, EventStore, NewEvent, RecordedEvent
from projections.projection import Projection
from projections.registry import PROJECTIONS
from projections.runner import run
from support import eventually

READ_MODELS = ("orders", "order_items", "shipments")
PRODUCT = UUID("55e76be0-b83e-4b3c-addd-f3d9e8835be2")

# Short, so that a takeover doesn't take long; long enough for a busy machine to renew it in time.
LEASE, POLL = 1.0, 0.1


def created(order_id: UUID, items: int = 1, number: str = "A-1") -> OrderCreated:
    lines = tuple(RecordedItem(product_id=PRODUCT, quantity=index + Decimal("1.5"), uom="KG") for index in range(items))
    return OrderCreated(id=order_id, order_number=number, business_partner="anna@example.com", items=lines)


def added(order_id: UUID) -> OrderItemAdded:
    return OrderItemAdded(id=order_id, product_id=PRODUCT, quantity=Decimal(2), uom="MT")


def whole_life(order_id: UUID) -> list[tuple[str, Event]]:
    """Created, an item added, completed, shipment created and completed: five events, each with its stream."""
    shipment = shipment_id(order_id)
    return [
        (str(order_id), created(order_id, items=2)),
        (str(order_id), added(order_id)),
        (str(order_id), OrderCompleted(id=order_id)),
        (str(shipment), ShipmentCreated(id=shipment, order_id=order_id)),
        (str(shipment), ShipmentCompleted(id=shipment)),
    ]


def random_lives(random: Random, orders: int) -> list[tuple[str, Event]]:
    """Legal lives that break off anywhere, or end in a deletion, in a random but legal interleaving."""
    lives: list[list[tuple[str, Event]]] = []
    for number in range(orders):
        order_id = UUID(int=random.getrandbits(128), version=4)
        name, shipment = str(order_id), shipment_id(order_id)
        life: list[tuple[str, Event]] = [(name, created(order_id, random.randint(1, 3), f"N-{number}"))]
        life += [(name, added(order_id)) for _ in range(random.randint(0, 2))]
        life += random.choice(
            [
                [(name, OrderDeleted(id=order_id))],
                [
                    (name, OrderCompleted(id=order_id)),
                    (str(shipment), ShipmentCreated(id=shipment, order_id=order_id)),
                    (str(shipment), ShipmentCompleted(id=shipment)),
                ][: random.randint(0, 3)],
            ]
        )
        lives.append(life)
    return interleaved(random, lives)


def random_chaos(random: Random, events: int) -> list[tuple[str, Event]]:
    """What no history should be: any event of a few orders and shipments at any time, again and again."""
    orders = [UUID(int=random.getrandbits(128), version=4) for _ in range(3)]
    shipments = [uuid5(order_id, name) for order_id in orders for name in ("shipment", "another")]

    def anything() -> tuple[str, Event]:
        order_id, shipment = random.choice(orders), random.choice(shipments)
        return random.choice(
            [
                (str(order_id), created(order_id, random.randint(0, 2), f"N-{random.randint(1, 9)}")),
                (str(order_id), added(order_id)),
                (str(order_id), OrderCompleted(id=order_id)),
                (str(order_id), OrderDeleted(id=order_id)),
                (str(shipment), ShipmentCreated(id=shipment, order_id=order_id)),
                (str(shipment), ShipmentCompleted(id=shipment)),
            ]
        )

    return [anything() for _ in range(events)]


def interleaved(random: Random, lives: Sequence[list[tuple[str, Event]]]) -> list[tuple[str, Event]]:
    waiting = [list(life) for life in lives]
    history: list[tuple[str, Event]] = []
    while waiting:
        life = random.choice(waiting)
        history.append(life.pop(0))
        if not life:
            waiting.remove(life)
    return history


async def append(store: EventStore, stream_id: str, *events: Event) -> Appended:
    stored = [encode(event) for event in events]
    return await store.append(Append(stream_id, "any", [NewEvent(uuid4(), *it) for it in stored]))


async def append_raw(store: EventStore, stream_id: str, event_type: str, data: bytes) -> Appended:
    return await store.append(Append(stream_id, "any", [NewEvent(uuid4(), event_type, data)]))


async def append_all(store: EventStore, history: Sequence[tuple[str, Event]]) -> None:
    for stream_id, event in history:
        await append(store, stream_id, event)


async def tables(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every read model."""
    return {
        table: [tuple(row.values()) for row in await connection.fetch(f"select * from {table} order by id")]
        for table in READ_MODELS
    }


async def rows(read_store_url: str, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(read_store_url)
    try:
        return [tuple(row.values()) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


async def caught_up(
    store: EventStore,
    read_store_url: str,
    *,
    projections: Sequence[Projection] = PROJECTIONS,
    within: float = 10.0,
) -> None:
    """Wait until the projections have seen all that has happened by now."""
    head = await store.stream_version("$all")
    names = [projection.name for projection in projections]
    arrived = """
        select array_agg(projection_name) @> $1 from projection_versions where last_seen_event_number >= $2
    """

    async def all_have_arrived() -> bool:
        return await rows(read_store_url, arrived, names, head) == [(True,)]

    await eventually(all_have_arrived, within=within, what=f"{names} at {head}")


async def owner(read_store_url: str, projection: str) -> str | None:
    found = await rows(read_store_url, "select owner from waybill.projections where projection_name = $1", projection)
    return found[0][0] if found else None


@asynccontextmanager
async def projecting(
    store: EventStore,
    event_store_url: str,
    read_store_url: str,
    *,
    projections: Sequence[Projection] = PROJECTIONS,
    name: str = "worker",
    lease: float = LEASE,
    poll: float = POLL,
    batch: int = 2000,
    reported: Callable[[RecordedEvent], bool] = lambda _: False,
) -> AsyncGenerator["asyncio.Task[None]"]:
    """A worker's projections, at work within the block."""
    work = run(
        projections,
        store=store,
        event_store_url=event_store_url,
        read_store_url=read_store_url,
        lease=lease,
        poll=poll,
        batch=batch,
        owner=name,
        reported=reported,
    )
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def work(event_store_url: str, read_store_url: str, name: str, lease: str) -> None:
    """A worker process that does nothing but project."""
    async with (
        PostgresStore.open(event_store_url, pool_size=2) as store,
        projecting(store, event_store_url, read_store_url, name=name, lease=float(lease)) as task,
    ):
        await task


@contextmanager
def worker_process(event_store_url: str, read_store_url: str, name: str, lease: float) -> Generator[Popen[bytes]]:
    """`work` in a process of its own, killed at the end of the block."""
    arguments = [event_store_url, read_store_url, name, str(lease)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = Popen([sys.executable, __file__, *arguments], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:]))
