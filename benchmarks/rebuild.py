"""`waybill projection rebuild orders` over a million events, beside one transaction per event.

The event store is filled by SQL with whole lives, as appends would have recorded them: created, an item added,
completed, shipment created, shipment completed, many orders at a time.
"""

import asyncio
import os
import sys
import time
from itertools import pairwise

import asyncpg

import projections.migrate
from benchmarks.measure import Figures, figures_of, report
from benchmarks.server import Databases, databases
from eventstore.pool import open_connection
from eventstore.postgres import PostgresStore
from projections.orders import ORDERS

EVENTS = int(os.environ.get("WAYBILL_BENCH_EVENTS", "1_000_000"))
SINGLE = min(EVENTS, 4000)
STRETCH = min(EVENTS // 5, 100_000)
LOOK_SECONDS = 0.02

# $1 how many orders. 60 orders are on their way at any time. A shipment's stream follows its order's.
_FILL = """
create table life as
with orders as (
  select n, gen_random_uuid() as order_id, gen_random_uuid() as shipment_id from generate_series(1, $1::int) as n
)
select n, order_id, step, gen_random_uuid() as event_id,
  case when step < 4 then order_id else shipment_id end as stream,
  2 * n - (step < 4)::int as stream_id,
  case when step < 4 then step else step - 3 end as version,
  row_number() over (order by n + 15 * step, n) as position,
  (array['Order.OrderCreated', 'Order.OrderItemAdded', 'Order.OrderCompleted', 'Shipment.ShipmentCreated',
    'Shipment.ShipmentCompleted'])[step] as type,
  case step
    when 1 then jsonb_build_object('id', order_id, 'order_number', 'SO-' || n,
      'business_partner', 'buyer-' || n % 5000 || '@example.com', 'items', (
        select jsonb_agg(jsonb_build_object('product_id', md5((n * 7 + i) % 2000 || '')::uuid, 'quantity', i + 0.5,
          'uom', 'KG'))
        from generate_series(0, n % 3) as i))
    when 2 then jsonb_build_object('id', order_id, 'product_id', md5(n % 2000 || '')::uuid, 'quantity', 3, 'uom', 'MT')
    when 3 then jsonb_build_object('id', order_id)
    when 4 then jsonb_build_object('id', shipment_id, 'order_id', order_id)
    else jsonb_build_object('id', shipment_id)
  end as data
from orders cross join generate_series(1, 5) as step
"""
_RECORD = """
insert into streams (stream_id, stream_uuid, stream_version)
select stream_id, stream::text, max(version) from life group by stream_id, stream order by stream_id;

insert into events (event_id, event_type, causation_id, correlation_id, data, metadata)
select event_id, type, gen_random_uuid(), order_id, convert_to(data::text, 'UTF8'),
  convert_to(format('{"command_id": "%s", "actor": "benchmark"}', event_id), 'UTF8')
from life order by position;

insert into stream_events (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
select event_id, place.stream_id, place.version, life.stream_id, life.version
from life cross join lateral (values (life.stream_id, life.version), (0, life.position)) as place (stream_id, version)
order by position;

update streams set stream_version = (select count(*) from life) where stream_id = 0;
drop table life;
"""
_CHECKPOINT = "select last_seen_event_number from projection_versions where projection_name = 'orders_next'"


async def run() -> None:
    """Measure, print, write results/rebuild.json."""
    async with databases("events", empty=("rebuilt", "single")) as server:
        await _fill(server.admin_url("events"))
        for name in ("rebuilt", "single"):
            await projections.migrate.migrate(server.url(name))
        single = await _one_by_one(server)
        rebuild, first, last = await _rebuild(server)
    report(
        "rebuild",
        "events",
        [rebuild, first, last, single],
        [
            ("times one transaction per event, end to end", rebuild.per_second / single.per_second, "15"),
            (f"the last {STRETCH:,} events, of the rate of the first", last.per_second / first.per_second, "0.8"),
        ],
    )


async def _fill(url: str) -> None:
    connection = await asyncpg.connect(url, command_timeout=3600)
    try:
        # Foreign keys hold by the way it is made, and nobody listens: the triggers needn't see to either.
        await connection.execute("set session_replication_role = replica; set work_mem = '256MB'")
        await connection.execute(_FILL, EVENTS // 5)
        await connection.execute(_RECORD)
        for table in ("streams", "events", "stream_events"):
            await connection.execute(f"vacuum analyze {table}")
        await connection.execute("checkpoint")
    finally:
        await connection.close()


async def _rebuild(server: Databases) -> tuple[Figures, Figures, Figures]:
    """The command as a user runs it; all of it, the first and the last stretch. A step is what is committed at once."""
    addresses = {
        "WAYBILL_EVENT_STORE_URL": server.url("events"),
        "WAYBILL_READ_STORE_URL": server.url("rebuilt"),
        "WAYBILL_LOG_LEVEL": "error",
    }
    began = time.perf_counter()
    command = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "cli", "projection", "rebuild", "orders", "--json"),
        env={**os.environ, **addresses},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    ended = asyncio.create_task(command.communicate())
    # A moment, and how far it was then.
    seen: list[tuple[float, int]] = []
    async with open_connection(server.url("rebuilt")) as connection:
        while not ended.done():
            position = await connection.fetchval(_CHECKPOINT) or 0
            if not seen or position > seen[-1][1]:
                seen.append((time.perf_counter(), position))
            await asyncio.sleep(LOOK_SECONDS)
    took = time.perf_counter() - began
    output, _ = await ended
    assert command.returncode == 0, output
    steps = [(after - before) * 1000 for (before, _), (after, _) in pairwise(seen)]
    whole = figures_of("rebuild, a step", 1, steps, took)
    return (
        Figures(f"rebuild, {EVENTS:,} events", 1, EVENTS, EVENTS / took, whole.median, whole.p99),
        _stretch("its first", [each for each in seen if each[1] <= STRETCH]),
        _stretch("its last", [each for each in seen if each[1] >= EVENTS - STRETCH]),
    )


def _stretch(name: str, seen: list[tuple[float, int]]) -> Figures:
    (began, first), (ended, last) = seen[0], seen[-1]
    events, took = last - first, ended - began
    return Figures(f"{name} {STRETCH:,}", 1, events, events / took, 0, 0)


async def _one_by_one(server: Databases) -> Figures:
    """What one would write first: the same projection, with a transaction for each event and its checkpoint."""
    latencies: list[float] = []
    async with (
        PostgresStore.open(server.url("events"), 1) as store,
        open_connection(server.url("single"), synchronous_commit="off") as connection,
    ):
        begin = time.perf_counter()
        page = await store.read_all(limit=SINGLE, types=ORDERS.types)
        for recorded in page:
            before = time.perf_counter()
            async with connection.transaction():
                await ORDERS.apply(connection, ORDERS.understand(recorded))
                await connection.execute(_MOVE, recorded.position)
            latencies.append((time.perf_counter() - before) * 1000)
        return figures_of("one transaction per event", 1, latencies, time.perf_counter() - begin)


_MOVE = (
    "update projection_versions set last_seen_event_number = $1, updated_at = now() where projection_name = 'orders'"
)
