"""Appends a second, one event each, beside the plainest thing that could be done: a bare one-row insert."""

import os
from uuid import uuid4

from benchmarks.measure import Figures, measure, report
from dev import throwaway
from eventstore.pool import open_pool
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent

CLIENTS = (1, 8, 32, 256)
SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8")) / 2
_DATA = b'{"id": "00000000-0000-4000-8000-000000000000"}'


async def run() -> None:
    """Measure, print, write results/appends.json."""
    figures: list[Figures] = []
    async with throwaway.stack() as record:
        async with PostgresStore.open(record.event_store_url) as store:

            async def append() -> None:
                event = NewEvent(uuid4(), "Benchmark.Appended", _DATA)
                await store.append(Append(str(uuid4()), "no_stream", [event]))

            figures += [await measure("waybill", n, append, seconds=SECONDS, warm_up=n) for n in CLIENTS]
        async with open_pool(record.event_store_url, 32) as pool:
            await pool.execute("create table bare (id uuid primary key, data bytea)")

            async def insert() -> None:
                await pool.execute("insert into bare values ($1, $2)", uuid4(), _DATA)

            figures += [await measure("bare insert", n, insert, seconds=SECONDS, warm_up=n) for n in CLIENTS]
    rate = {(each.variant, each.clients): each.per_second for each in figures}
    report(
        "appends",
        "appends",
        figures,
        [("of a bare one-row insert, 32 clients", rate["waybill", 32] / rate["bare insert", 32], "0.6")],
    )
