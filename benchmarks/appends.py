"""Appends a second, one event each, beside three other ways to do it on the same server.

The original's statement, one per append; the PostgreSQL recorder of the library `eventsourcing`; and the plainest
thing that could be done, a bare one-row insert. New streams: an append makes a stream. Hot streams: few, that all
append to, at any version.

And the layout alone: as many events as there are clients written by one statement, each to a new stream, with nothing
looked at and nobody told. It is what a store of these tables can have at most, if it writes one batch after the other.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

from benchmarks.measure import Figures, figures_of, measure, report
from benchmarks.original import OriginalClient
from benchmarks.server import Databases, databases
from eventstore.pool import STATEMENT_TIMEOUT
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent

CLIENTS = (1, 8, 32, 256)
SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8")) / 2
CONNECTIONS = 32
"""For the others, at most: what is more only waits in the server instead of in the pool."""
HOT = 8
LAYOUT_ALONE = """
with stored as (
  insert into public.events (event_id, event_type, data, metadata)
  select event_id, 'Benchmark.Appended', $2, '{}' from unnest($1::uuid[]) as event_id
), stream as (
  insert into public.streams (stream_uuid, stream_version)
  select event_id::text, 1 from unnest($1::uuid[]) as event_id
  returning stream_id, stream_uuid::uuid as event_id
), own as (
  insert into public.stream_events (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
  select event_id, stream_id, 1, stream_id, 1 from stream
), head as (
  update public.streams set stream_version = stream_version + cardinality($1)
  where stream_id = 0
  returning stream_version - cardinality($1) as position
)
insert into public.stream_events (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
select event_id, 0, position + row_number() over (), stream_id, 1 from stream, head
"""
"""$1 the events' ids, $2 their data."""
DATA = b'{"id": "00000000-0000-4000-8000-000000000000"}'

Work = Callable[[], Awaitable[object]]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
OnOne = Callable[[Callable[[Connection], Awaitable[Any]]], Awaitable[Any]]


def event() -> NewEvent:
    return NewEvent(uuid4(), "Benchmark.Appended", DATA)


async def run() -> None:
    """Measure, print, write results/appends.json."""
    figures: list[Figures] = []
    async with databases("waybill", "original", "layout", empty=("eventsourcing", "bare")) as server:
        # Side by side, so that whatever else the machine does falls on all of them.
        for clients in CLIENTS:
            for variant, opened in (("waybill", _waybill), ("original", _original), ("bare", _bare)):
                async with opened(server, clients) as works:
                    for kind, work in works.items():
                        name = f"{variant}, {kind}"
                        figures.append(await measure(name, clients, work, seconds=SECONDS, warm_up=clients))
            figures.append(await _layout_alone(server, clients))
            figures.append(await asyncio.to_thread(_eventsourcing, server, clients))
    rate = {(each.variant, each.clients): each.per_second for each in figures}
    report(
        "appends",
        "appends",
        figures,
        [
            (f"of {other}, {kind}, {n} clients", rate[f"waybill, {kind}", n] / rate[f"{other}, {basis}", n], target)
            for other, n, target in (("original", 1, "1"), ("original", 32, "10"), ("bare", 32, "0.6"))
            for kind in ("new streams", "hot streams")
            for basis in (kind if other == "original" else "rows",)
        ]
        + [
            (
                f"the layout alone, of original, new streams, {n} clients",
                rate["layout alone, new streams", n] / rate["original, new streams", n],
                "no target: one batch after the other, the most there is",
            )
            for n in (1, 32)
        ],
    )


@asynccontextmanager
async def _waybill(server: Databases, _clients: int) -> AsyncGenerator[dict[str, Work]]:
    async with PostgresStore.open(server.url("waybill")) as store:
        turns = count()
        yield {
            "new streams": lambda: store.append(Append(str(uuid4()), "no_stream", [event()])),
            "hot streams": lambda: store.append(Append(f"hot-{next(turns) % HOT}", "any", [event()])),
        }


@asynccontextmanager
async def _original(server: Databases, clients: int) -> AsyncGenerator[dict[str, Work]]:
    async with _connections(server.url("original"), clients) as on_one:
        numbers = [await on_one(partial(_hot_stream, f"hot-{turn}")) for turn in range(HOT)]
        turns = count()
        yield {
            "new streams": lambda: on_one(lambda one: OriginalClient(one).create(str(uuid4()), [event()])),
            "hot streams": lambda: on_one(
                lambda one: OriginalClient(one).append_at_any_version(numbers[next(turns) % HOT], [event()])
            ),
        }


async def _hot_stream(name: str, connection: Connection) -> int:
    client = OriginalClient(connection)
    if not await client.find(name):
        await client.create(name, [event()])
    number, _ = await client.find(name) or (0, 0)
    return number


@asynccontextmanager
async def _bare(server: Databases, clients: int) -> AsyncGenerator[dict[str, Work]]:
    async with _connections(server.url("bare"), clients) as on_one:
        await on_one(lambda one: one.execute("create table if not exists bare (id uuid primary key, data bytea)"))
        yield {"rows": lambda: on_one(lambda one: one.execute("insert into bare values ($1, $2)", uuid4(), DATA))}


@asynccontextmanager
async def _connections(url: str, clients: int) -> AsyncGenerator[OnOne]:
    """Does things on whichever connection is free; asyncpg prepares a statement once on each.

    Not a pool: its bookkeeping would count against them.
    """
    async with AsyncExitStack() as opened:
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(min(clients, CONNECTIONS)):
            free.put_nowait(await opened.enter_async_context(connection_to(url)))

        async def on_one(work: Callable[[Connection], Awaitable[Any]]) -> Any:
            connection = await free.get()
            try:
                return await work(connection)
            finally:
                free.put_nowait(connection)

        yield on_one


@asynccontextmanager
async def connection_to(url: str) -> AsyncGenerator[Connection]:
    """As the appender has one."""
    connection = await asyncpg.connect(url, command_timeout=STATEMENT_TIMEOUT, server_settings={"jit": "off"})
    try:
        yield connection
    finally:
        await connection.close()


async def _layout_alone(server: Databases, clients: int) -> Figures:
    async with connection_to(server.url("layout")) as connection:

        async def write() -> None:
            await connection.execute(LAYOUT_ALONE, [uuid4() for _ in range(clients)], DATA)

        batches = await measure("layout alone, new streams", 1, write, seconds=SECONDS, warm_up=1)
        done, per_second = batches.done * clients, batches.per_second * clients
        return replace(batches, clients=clients, done=done, per_second=per_second)


def _eventsourcing(server: Databases, clients: int) -> Figures:
    """It waits where it stands: each client is a thread."""
    host, port, role = str(server.server.sockets), 5432, server.role
    pool_size = min(clients, CONNECTIONS)
    with PostgresDatastore("eventsourcing", host, port, role, "", pool_size=pool_size, connect_timeout=60) as datastore:
        recorder = PostgresApplicationRecorder(datastore)
        if clients == CLIENTS[0]:
            recorder.create_table()
        append = partial(_record, recorder)
        for _ in range(clients):
            append()
        latencies: list[float] = []
        start = time.perf_counter()

        def client(_number: int) -> None:
            while (before := time.perf_counter()) - start < SECONDS:
                append()
                latencies.append((time.perf_counter() - before) * 1000)

        with ThreadPoolExecutor(clients) as threads:
            list(threads.map(client, range(clients)))
        return figures_of("eventsourcing, new streams", clients, latencies, time.perf_counter() - start)


def _record(recorder: PostgresApplicationRecorder) -> None:
    recorder.insert_events([StoredEvent(uuid4(), 1, "Benchmark.Appended", DATA)])
