"""How long it takes until what was appended can be read: live lag, at a steady rate of appends.

The projections run in a worker process of a whole stack. The appends come from a process of their own, at the moments
of a timetable, whether the ones before have been answered or not. The lag of an append is from its moment in the
timetable to the notification that the orders projection has committed it.
"""

import asyncio
import os
import sys
import time
from decimal import Decimal
from heapq import heappop, heappush
from uuid import uuid4

import orjson
import uvloop

from benchmarks.measure import Figures, figures_of, report
from dev import throwaway
from domain.order import OrderCreated
from domain.values import RecordedItem
from eventstore.codec import encode
from eventstore.listener import listening
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent
from projections.orders import ORDERS
from projections.runner import PROJECTIONS_CHANNEL

RATES = (100, 1000)
SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8"))
WARM_UP_SECONDS = 1.0
PATIENCE_SECONDS = 120


async def run() -> None:
    """Measure, print, write results/lag.json."""
    async with throwaway.stack() as record:
        figures = [await _load(record.event_store_url, record.read_store_url, rate) for rate in RATES]
    ratios = [
        (f"of {rate} appends a second, made", each.per_second / rate, "1")
        for rate, each in zip(RATES, figures, strict=True)
    ]
    report("lag", "appends", figures, ratios)


async def _load(event_store_url: str, read_store_url: str, rate: int) -> Figures:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.lag", event_store_url, read_store_url, str(rate)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, "the load has failed"
    measured = orjson.loads(output)
    return figures_of(f"{rate:,} appends a second", 1, measured["lags"], measured["took"])


class Waiting:
    """The appends that the projection has not committed yet, and how long the others took until then."""

    def __init__(self, expected: int) -> None:
        self.done = asyncio.Event()
        """All that are expected have been committed."""
        self._expected = expected
        self.lags: list[float] = []
        """Milliseconds."""
        self._reached = 0
        self._waiting: list[tuple[int, float]] = []

    def appended(self, position: int, due: float) -> None:
        heappush(self._waiting, (position, due))
        self._settle()

    def heard(self, payload: str | None) -> None:
        name, version, position = (payload or ",,").split(",")
        if name == ORDERS.name and version == str(ORDERS.version):
            self._reached = max(self._reached, int(position))
            self._settle()

    def _settle(self) -> None:
        now = time.perf_counter()
        while self._waiting and self._waiting[0][0] <= self._reached:
            self.lags.append((now - heappop(self._waiting)[1]) * 1000)
        if len(self.lags) == self._expected:
            self.done.set()


async def _generate(event_store_url: str, read_store_url: str, rate: int) -> None:
    waiting, unwatched = Waiting(round(rate * SECONDS)), Waiting(0)
    async with (
        PostgresStore.open(event_store_url) as store,
        listening(read_store_url, PROJECTIONS_CHANNEL, waiting.heard),
    ):
        await _timetable(store, unwatched, rate, WARM_UP_SECONDS)
        took = await _timetable(store, waiting, rate, SECONDS)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting.done.wait()
    sys.stdout.buffer.write(orjson.dumps({"lags": waiting.lags, "took": took}))


async def _timetable(store: PostgresStore, waiting: Waiting, rate: int, seconds: float) -> float:
    """Append at each moment; gives how long it took until the last append was answered."""
    start = time.perf_counter()
    async with asyncio.TaskGroup() as appends:
        for number in range(round(rate * seconds)):
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            appends.create_task(_append(store, waiting, due))
    return time.perf_counter() - start


async def _append(store: PostgresStore, waiting: Waiting, due: float) -> None:
    order_id = uuid4()
    items = tuple(RecordedItem(product_id=uuid4(), quantity=Decimal(n), uom="KG") for n in (1, 2, 3))
    created = OrderCreated(id=order_id, order_number=str(order_id), business_partner="buyer@example.com", items=items)
    kind, data = encode(created)
    appended = await store.append(Append(str(order_id), "no_stream", [NewEvent(uuid4(), kind, data, b"{}")]))
    waiting.appended(appended.first_position, due)


if __name__ == "__main__":
    uvloop.run(_generate(sys.argv[1], sys.argv[2], int(sys.argv[3])))
