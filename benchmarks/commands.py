"""What a command costs on a long order: add an item, and complete it, after 10 events and after 10 thousand.

The steps that look at the order's history, as a worker runs them, with the store in PostgreSQL and without Temporal.
Every item is of another product, which is the worst case for completing.
"""

import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import cycle, takewhile
from uuid import UUID, uuid4

from temporalio.testing import ActivityEnvironment

from activities import EnrichCommand, ExecuteAndAppend
from activities.execute_and_append import Execution
from benchmarks.appends import SECONDS
from benchmarks.measure import Figures, figures_of, report
from benchmarks.server import databases
from domain.aggregates import ORDER, Event
from domain.commands import CommandRequest
from domain.ids import correlation_id
from domain.order import OrderCreated, OrderItemAdded
from domain.values import RecordedItem
from eventstore.codec import encode, encode_snapshot
from eventstore.postgres import PostgresStore
from eventstore.products import KEEP_EVERY, keep_products
from eventstore.store import Append, NewEvent
from settings import Settings

SHORT = 10
LONG = int(os.environ.get("WAYBILL_BENCH_LONG_ORDER", "10_000"))
ORDERS = 20
"""So many long ones: items are added to all of them in turn, and each is completed once."""
ADDED = 400
"""Items added, at most, to short orders, and to long ones."""


async def run() -> None:
    """Measure, print, write results/commands.json."""
    figures: list[Figures] = []
    async with databases("commands") as server, PostgresStore.open(server.url("commands")) as store:
        steps = Steps(store)
        lengths = (SHORT, LONG + KEEP_EVERY // 2)
        # In the middle between two snapshots: that many events are read after the last one on average.
        long = [await _order(store, lengths[1]) for _ in range(ORDERS)]
        # A short order that items are added to is soon short no more: each gets one.
        short = [await _order(store, SHORT) for _ in range(ADDED)]
        enough = time.perf_counter() + SECONDS
        adding = takewhile(lambda _: time.perf_counter() < enough, zip(short, cycle(long), strict=False))
        figures += await _alternately("add an item to", lengths, adding, steps.add)
        figures += await _alternately("complete", lengths, zip(short[:ORDERS], long, strict=True), steps.complete)
    short_add, long_add, short_complete, long_complete = (each.median for each in figures)
    report(
        "commands",
        "commands",
        figures,
        [
            ("adding an item to a long order, times a short one", long_add / short_add, "at most 1.5"),
            ("completing a long order, times a short one", long_complete / short_complete, "at most 1.5"),
        ],
    )


async def _alternately(
    what: str, lengths: Iterable[int], pairs: Iterable[Sequence[UUID]], work: Callable[[UUID], Awaitable[None]]
) -> list[Figures]:
    """A short order, a long one, a short one, ...: so that whatever else the machine does falls on both."""
    latencies: list[list[float]] = [[] for _ in lengths]
    for pair in pairs:
        for order_id, its in zip(pair, latencies, strict=True):
            before = time.perf_counter()
            await work(order_id)
            its.append((time.perf_counter() - before) * 1000)
    return [
        figures_of(f"{what} {length:,}", 1, its, sum(its) / 1000)
        for length, its in zip(lengths, latencies, strict=True)
    ]


class Steps:
    """A command's way through a worker, from what it asks of the order to what it appends."""

    def __init__(self, store: PostgresStore) -> None:
        self._environment = ActivityEnvironment()
        self._enrich = EnrichCommand(store)
        self._execute = ExecuteAndAppend(store, Settings().snapshot_interval)

    async def add(self, order_id: UUID) -> None:
        data = {"id": str(order_id), "product_id": str(uuid4()), "quantity": 1, "uom": "KG"}
        await self._run(_request("AddOrderItem", order_id, data))

    async def complete(self, order_id: UUID) -> None:
        request = _request("CompleteOrder", order_id, {"id": str(order_id)})
        await self._run(request, await self._environment.run(self._enrich.run, request))

    async def _run(self, request: CommandRequest, enrichment: object = None) -> None:
        execution = Execution.model_validate({"request": request, "enrichment": enrichment})
        await self._environment.run(self._execute.run, execution)


def _request(command: str, order_id: UUID, data: Mapping[str, object]) -> CommandRequest:
    fields = {"command": command, "command_id": uuid4(), "correlation_id": correlation_id(order_id), "data": data}
    return CommandRequest.model_validate(fields)


async def _order(store: PostgresStore, events: int) -> UUID:
    """An open order with so many events, and with the caches that commands would have left behind."""
    order_id = uuid4()
    item = RecordedItem(product_id=uuid4(), quantity=Decimal(1), uom="KG")
    created = OrderCreated(id=order_id, order_number="A-1", business_partner="ann@example.com", items=(item,))
    added = (OrderItemAdded(id=order_id, product_id=uuid4(), quantity=Decimal(1), uom="KG") for _ in range(events - 1))
    history: list[Event] = [created, *added]
    kept = events - events % KEEP_EVERY
    if kept:
        await _append(store, order_id, history[:kept])
        await keep_products(store, str(order_id))
        await store.record_snapshot(encode_snapshot(ORDER, str(order_id), kept, ORDER.fold([created])))
    await _append(store, order_id, history[kept:])
    return order_id


async def _append(store: PostgresStore, order_id: UUID, events: Sequence[Event]) -> None:
    await store.append(Append(str(order_id), "any", [NewEvent(uuid4(), *encode(event)) for event in events]))
