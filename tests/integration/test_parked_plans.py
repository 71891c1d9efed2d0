"""What is due is found by key, however much waits, and whenever the statement was planned."""

import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import asyncpg
import pytest

from eventstore.reader import BY_KEY
from projections.parking import _SQL

WAITING = 100_000
# In each of 8 kB. So many rows fill more than a thousand.
FEW_BUFFERS = 40

# Each in a stream of its own, too early by an hour.
_FILL = """
insert into waybill.parked
  (subscriber, position, stream_id, event_id, event_type, state, reason, attempts, retry_at)
select 'shipment', n, gen_random_uuid(), gen_random_uuid(), 'Order.OrderCompleted', 'waiting', 'its run was woken', 3,
  now() + interval '1 hour'
from generate_series(1, $1::int) as n
"""


@pytest.fixture
async def crowd(event_store_url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection that has planned its statements while nothing waited. Now much does, and no statistics say so."""
    connection = await asyncpg.connect(event_store_url, server_settings=BY_KEY)
    await connection.execute("alter table waybill.parked set (autovacuum_enabled = off)")
    await connection.execute(f"prepare due(text, int) as {_SQL['due']}")
    await connection.execute(f"prepare discards(text) as {_SQL['discards']}")
    await connection.execute("execute due('shipment', 1000); execute discards('shipment')")
    await connection.execute(_FILL, WAITING)
    yield connection
    await connection.close()


async def cost(connection: "asyncpg.Connection[asyncpg.Record]", call: str) -> tuple[int, int, str]:
    """Rows that it gives, buffers that it looks at, and its plan."""
    text = await connection.fetchval(f"explain (analyze, buffers, format json) execute {call}")
    (explained,) = json.loads(text)
    plan = explained["Plan"]
    return plan["Actual Rows"], plan["Shared Hit Blocks"] + plan["Shared Read Blocks"], "\n".join(lines(plan))


def lines(plan: dict[str, Any], depth: int = 0) -> Iterator[str]:
    scanned = plan.get("Index Name") or plan.get("Relation Name") or ""
    yield f"{'  ' * depth}{plan['Node Type']} {scanned} rows={plan['Actual Rows']} loops={plan['Actual Loops']}"
    for child in plan.get("Plans", ()):
        yield from lines(child, depth + 1)


@pytest.mark.parametrize("analyzed", [False, True], ids=["without statistics", "with statistics"])
async def test_asking_what_is_due_looks_at_nothing_that_waits(
    crowd: "asyncpg.Connection[asyncpg.Record]", analyzed: bool
) -> None:
    if analyzed:
        await crowd.execute("analyze waybill.parked")
    for call in ("due('shipment', 1000)", "discards('shipment')"):
        _, buffers, plan = await cost(crowd, call)
        assert buffers < FEW_BUFFERS, plan


async def test_what_is_due_among_much_that_waits_costs_what_it_is(crowd: "asyncpg.Connection[asyncpg.Record]") -> None:
    await crowd.execute("update waybill.parked set retry_at = now() - interval '1 s' where position % 20000 = 7")
    await crowd.execute("update waybill.parked set state = 'retry', retry_at = null where position % 20000 = 8")
    rows, buffers, plan = await cost(crowd, "due('shipment', 1000)")
    assert rows == 10
    assert buffers < 10 * FEW_BUFFERS, plan


async def test_a_page_of_what_is_due_is_bounded_however_much_is_due(
    crowd: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await crowd.execute("update waybill.parked set state = 'retry', retry_at = null")
    rows, buffers, plan = await cost(crowd, "due('shipment', 10)")
    assert rows == 10
    assert buffers < 10 * FEW_BUFFERS, plan
    first = await crowd.fetch("execute due('shipment', 10)")
    assert [row["position"] for row in first] == list(range(1, 11))
