"""What becomes of appends and reads when the store grows: 10 thousand events beside millions, in one run.

The large store is filled by SQL, in the form that appends would have given it. Then both are measured in turns, so
that whatever else the machine does falls on both.

Ids are random, so an append to a large store touches pages of its indexes that no other has touched for a while. They
are in memory when the server is sized for its store and has been up for a while, as this one is and seems to have been;
and the first change to a page after a checkpoint puts the whole page into the log. So both are measured twice: long
after a checkpoint, and from one on.

The layout alone (see appends.py) says how much of that is in the tables: what an append does beside them doesn't grow.

What is appended has the size of what is there. Smaller events would go into what the last ones left free of their
pages, one in each: every append would look for such a page and read it, until they are full.
"""

import asyncio
import os
import statistics
import time
from uuid import uuid4

import asyncpg

from benchmarks.appends import LAYOUT_ALONE, SECONDS, Connection, connection_to
from benchmarks.measure import Figures, figures_of, report
from benchmarks.server import Databases, databases
from eventstore.batches import in_ranges
from eventstore.codec import decode
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent

SMALL = 10_000
LARGE = int(os.environ.get("WAYBILL_BENCH_EVENTS", "5_000_000"))
READ = min(LARGE, 300_000)
CLIENTS = 32
TURNS = max(2, round(2 * SECONDS))
APPENDS = 2000
"""In one turn, to each."""
# No checkpoint comes by itself while all this goes on.
_SERVER = {"shared_buffers": "4GB", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}
_PER_STREAM, _AT_ONCE = 5, 250_000

_DATA = b'{"id":"%s","product_id":"0b1e7e52-5a0f-4b6e-9c57-2d2b0c7a7f11","quantity":1.5,"uom":"KG"}'
_AS_LARGE = bytes(231)
"""With its metadata and the two ids that it has, an event of _FILL has as many."""

# Orders of five events each: $1 the first new stream's number, $2 how many streams.
_FILL = """
with stream as (
  insert into public.streams (stream_id, stream_uuid, stream_version)
  select n, gen_random_uuid(), {per_stream} from generate_series($1::bigint, $1::bigint + $2::bigint - 1) as n
  returning stream_id, stream_uuid
), event as materialized (
  select gen_random_uuid() as event_id, stream_id, stream_uuid, version,
    (stream_id - 1) * {per_stream} + version as position
  from stream cross join generate_series(1, {per_stream}) as version
), stored as (
  insert into public.events (event_id, event_type, causation_id, correlation_id, data, metadata)
  select event_id, 'Order.OrderItemAdded', gen_random_uuid(), stream_uuid::uuid,
    convert_to(format(
      '{{"id":"%s","product_id":"0b1e7e52-5a0f-4b6e-9c57-2d2b0c7a7f11","quantity":1.5,"uom":"KG"}}', stream_uuid
    ), 'UTF8'),
    convert_to(format('{{"command_id":"%s","command":"AddOrderItem"}}', event_id), 'UTF8')
  from event
  order by position
)
insert into public.stream_events (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
select event_id, place.stream_id, place.version, event.stream_id, event.version
from event
cross join lateral (values (event.stream_id, event.version), (0, event.position)) as place (stream_id, version)
order by position
"""


async def run() -> None:
    """Measure, print, write results/growth.json."""
    async with databases("small", "large", settings=_SERVER) as server:
        await _fill(server.admin_url("small"), SMALL)
        await _fill(server.admin_url("large"), LARGE)
        async with (
            PostgresStore.open(server.url("large"), 2) as large,
            connection_to(server.url("large")) as large_layout,
        ):
            await _append(large, APPENDS)
            await _write(large_layout, APPENDS)
            figures, growth, layout = await _compare(server, large, large_layout, "")
            await _execute(server, "checkpoint")
            after, growth_after, _ = await _compare(server, large, large_layout, ", after a checkpoint")
            read, parsed = await _read(large), await _read(large, parsing=True)
    report(
        "growth",
        "events",
        [*figures, *after, read, parsed],
        [
            (f"appending at {LARGE:,} events, of the rate at {SMALL:,}", growth, "0.9"),
            ("the same, from a checkpoint on", growth_after, "no target"),
            ("the same of the layout alone, long after a checkpoint", layout, "no target"),
            ("reading $all, of 100,000 events a second", read.per_second / 100_000, "1"),
            ("of that rate, with every event parsed too", parsed.per_second / read.per_second, "no target"),
        ],
    )


async def _compare(
    server: Databases, large: PostgresStore, large_layout: Connection, when: str
) -> tuple[list[Figures], float, float]:
    """Appends to a small store and to the large one in turns: how the rates compare, and those of the layout alone.

    Each turn has a small store of its own, or else it would be none any more. The large one's connection stays: a new
    one maps the server's memory page by page, as it comes to them, and those are many.
    """
    turns: dict[int, list[tuple[list[float], float]]] = {SMALL: [], LARGE: []}
    layout: list[float] = []
    for _ in range(TURNS):
        await _execute(server, f"create database turn template small owner {server.role}")
        async with (
            PostgresStore.open(server.url("turn"), 1) as small,
            connection_to(server.url("turn")) as small_layout,
        ):
            for size, store in ((SMALL, small), (LARGE, large)):
                await _append(store, 3 * CLIENTS)
                turns[size].append(await _append(store, APPENDS))
            await _write(small_layout, 3 * CLIENTS)
            layout.append(await _write(small_layout, APPENDS) / await _write(large_layout, APPENDS))
        await _execute(server, "drop database turn with (force)")
    figures = [
        figures_of(
            f"append to {size:,} events{when}",
            CLIENTS,
            [latency for latencies, _ in of_size for latency in latencies],
            sum(took for _, took in of_size),
        )
        for size, of_size in turns.items()
    ]
    growth = statistics.median(small / large for (_, small), (_, large) in zip(*turns.values(), strict=True))
    return figures, growth, statistics.median(layout)


def _item_added() -> NewEvent:
    """As _FILL makes them."""
    event_id = uuid4()
    return NewEvent(
        event_id,
        "Order.OrderItemAdded",
        _DATA % str(event_id).encode(),
        b'{"command_id":"%s","command":"AddOrderItem"}' % str(event_id).encode(),
        causation_id=event_id,
        correlation_id=event_id,
    )


async def _append(store: PostgresStore, appends: int) -> tuple[list[float], float]:
    """So many appends by all clients together: the latencies in milliseconds, and how many seconds it took."""
    latencies: list[float] = []
    left = iter(range(appends))

    async def client() -> None:
        for _ in left:
            before = time.perf_counter()
            await store.append(Append(str(uuid4()), "no_stream", [_item_added()]))
            latencies.append((time.perf_counter() - before) * 1000)

    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())
    return latencies, time.perf_counter() - start


async def _write(connection: Connection, events: int) -> float:
    """So many events, CLIENTS at a time, by the layout alone: how many seconds it took."""
    start = time.perf_counter()
    for _ in range(events // CLIENTS):
        await connection.execute(LAYOUT_ALONE, [uuid4() for _ in range(CLIENTS)], _AS_LARGE)
    return time.perf_counter() - start


async def _read(store: PostgresStore, *, parsing: bool = False) -> Figures:
    """The sequence from its beginning, page by page, as records or parsed as well."""
    latencies: list[float] = []
    seen = 0
    before = start = time.perf_counter()
    async for _, page in in_ranges(store, until=READ):
        if parsing:
            for recorded in page:
                decode(recorded)
        seen += len(page)
        latencies.append((time.perf_counter() - before) * 1000)
        before = time.perf_counter()
    took = time.perf_counter() - start
    pages = figures_of(f"read $all{' and parse' if parsing else ''}, pages of 2,000", 1, latencies, took)
    return Figures(pages.variant, 1, seen, seen / took, pages.median, pages.p99)


async def _fill(url: str, size: int) -> None:
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        # Foreign keys hold by the way it is made, and nobody listens: the triggers needn't see to either.
        await connection.execute("set session_replication_role = replica; set work_mem = '256MB'")
        statement = _FILL.format(per_stream=_PER_STREAM)
        for first in range(1, size // _PER_STREAM + 1, _AT_ONCE // _PER_STREAM):
            await connection.execute(statement, first, min(_AT_ONCE // _PER_STREAM, size // _PER_STREAM - first + 1))
        await connection.execute("update public.streams set stream_version = $1 where stream_id = 0", size)
        await connection.execute("select setval('public.streams_stream_id_seq', (select max(stream_id) from streams))")
        await connection.execute("vacuum analyze")
        # A server that has been up for a while has its indexes in memory.
        await connection.execute("create extension pg_prewarm")
        await connection.execute("select pg_prewarm(indexrelid::regclass) from pg_stat_user_indexes")
    finally:
        await connection.close()


async def _execute(server: Databases, statement: str) -> None:
    """As the superuser, in no transaction and in none of the databases that are measured."""
    connection = await asyncpg.connect(server.admin_url("postgres"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
