"""The 830 orders of a real company, taken to their shipments while processes are killed.

What comes out is known beforehand (see the data's README): nothing is lost, nothing is doubled.
"""

import asyncio
import csv
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from command_line import CommandLine, Ended, ended
from dev.record import Record
from dev.throwaway import ANY_PORTS, DevProcess, temporary_directory
from support import eventually

NORTHWIND = Path(__file__).parents[3] / "shared" / "data" / "northwind"
ORDERS = NORTHWIND / "orders.jsonl"
PRODUCTS = NORTHWIND / "products.csv"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ORDERS.exists(), reason=f"the real orders are not here ({ORDERS})"),
]


@dataclass(frozen=True)
class Story:
    """What is there after three loads of the same file."""

    record: Record
    second: Ended
    """After a first load that was killed; a worker and the gateway were killed while it ran."""
    third: Ended
    """Undisturbed."""
    events_before_third: int


@pytest.fixture(scope="module")
async def story() -> AsyncGenerator[Story]:
    with temporary_directory() as path:
        dev = await DevProcess.start(path / "data", path / "log", *ANY_PORTS)
        try:
            await dev.ready()
            yield await live_through(dev)
        finally:
            await dev.stop()


async def live_through(dev: DevProcess) -> Story:
    record = record_of(dev)
    waybill = CommandLine.to(record)
    await block_products(record)
    load = ("load", str(ORDERS), "--complete", "--ship", "--json")
    store: asyncpg.Connection = await asyncpg.connect(record.event_store_url)
    try:
        async with waybill.running(*load) as first:
            await has_orders(store, 250, first)
            first.kill()
        async with waybill.running(*load) as running:
            await has_orders(store, 450, running)
            os.kill(record_of(dev).pids.workers[0], signal.SIGKILL)
            await has_orders(store, 650, running)
            os.kill(record_of(dev).pids.api, signal.SIGKILL)
            second = await ended(running)
        before = await store.fetchval("select count(*) from events")
        third = await waybill(*load)
    finally:
        await store.close()
    return Story(record_of(dev), second, third, before)


def record_of(dev: DevProcess) -> Record:
    record = Record.read(dev.data_dir)
    assert record is not None
    return record


async def block_products(record: Record) -> None:
    with PRODUCTS.open(newline="") as products:
        blocked = [row["product_id"] for row in csv.DictReader(products) if row["blocked"] == "true"]
    async with httpx2.AsyncClient(base_url=record.api_url, timeout=30) as gateway:
        answers = [await gateway.put(f"/blocked-products/{product_id}") for product_id in blocked]
    assert [answer.status_code for answer in answers] == [204] * 10


async def has_orders(store: asyncpg.Connection, count: int, load: asyncio.subprocess.Process) -> None:
    """Wait until so many orders are created, while the load is still under way."""

    async def created() -> bool:
        return await store.fetchval("select count(*) from events where event_type = 'Order.OrderCreated'") >= count

    await eventually(created, within=90, every=0.1)
    assert load.returncode is None


async def test_a_load_that_goes_on_after_a_killed_one_has_every_order_in_the_end(story):
    counts = story.second.json

    assert story.second.code == 0, story.second.err
    assert counts["lines"] == 830
    assert counts["created"] + counts["already_there"] == 830
    assert counts["already_there"] >= 250
    assert counts["completed"] + counts["already_completed"] == 563
    assert counts["shipped"] + counts["already_shipped"] == 553
    assert counts["refused"] == {"products-blocked": 267}
    assert (counts["failed"], counts["bad_lines"]) == (0, 0)


async def test_another_load_of_the_same_file_creates_nothing(story):
    counts = story.third.json

    assert story.third.code == 0, story.third.err
    assert (counts["created"], counts["completed"], counts["shipped"]) == (0, 0, 0)
    assert (counts["already_there"], counts["already_completed"], counts["already_shipped"]) == (830, 563, 553)
    assert counts["refused"] == {"products-blocked": 267}
    assert await rows(story.record.event_store_url, "select count(*) as n from events") == [
        {"n": story.events_before_third}
    ]


async def test_nothing_has_happened_twice(story):
    counted = """
        select event_type, count(*) as n, count(distinct stream_id) as streams
        from events join stream_events using (event_id)
        where stream_id = original_stream_id group by event_type
    """
    assert {
        row["event_type"]: (row["n"], row["streams"]) for row in await rows(story.record.event_store_url, counted)
    } == {
        "Order.OrderCreated": (830, 830),
        "Order.OrderCompleted": (563, 563),
        "Shipment.ShipmentCreated": (563, 563),
        "Shipment.ShipmentCompleted": (553, 553),
    }
    claims = "select count(*) as n, count(distinct owner) as owners, count(lease_until) as unsure from waybill.claims"
    assert await rows(story.record.event_store_url, claims) == [{"n": 830, "owners": 830, "unsure": 0}]


async def test_the_global_sequence_has_no_hole(story):
    sequence = "select count(*) as n, min(stream_version), max(stream_version) from stream_events where stream_id = 0"

    assert await rows(story.record.event_store_url, sequence) == [{"n": 2509, "min": 1, "max": 2509}]


async def test_the_read_model_has_every_order_item_and_unit(story):
    totals = (
        "select (select count(*) from orders) as orders, count(*) as items, sum(quantity) as units from order_items"
    )
    statuses = "select status, count(*) as n from orders group by status"
    shipments = "select status, count(*) as n from shipments group by status"

    async def projected() -> bool:
        seen = "select min(last_seen_event_number) as n from projection_versions where projection_name = any($1)"
        return (await rows(story.record.read_store_url, seen, ["orders", "shipments"]))[0]["n"] == 2509

    await eventually(projected)
    assert await rows(story.record.read_store_url, totals) == [{"orders": 830, "items": 2155, "units": 51317}]
    assert await counts_of(story, statuses) == {"SHIPPED": 553, "COMPLETED": 10, "OPEN": 267}
    assert await counts_of(story, shipments) == {"COMPLETED": 553, "OPEN": 10}


async def test_the_gateway_shows_every_order_once(story):
    async with httpx2.AsyncClient(base_url=story.record.api_url, timeout=30) as gateway:
        pages = [page async for page in pages_of(gateway, "/orders")]
        ids = [order["id"] for page in pages for order in page]
        open_orders = sum([len(page) async for page in pages_of(gateway, "/orders", status="OPEN")])
        shipped = sum([len(page) async for page in pages_of(gateway, "/shipments", status="COMPLETED")])

    assert (len(ids), len(set(ids))) == (830, 830)
    assert (open_orders, shipped) == (267, 553)


async def pages_of(gateway: httpx2.AsyncClient, path: str, **filters: str) -> AsyncGenerator[list[Any]]:
    after = {"min_position": "2509"}
    while True:
        answer = await gateway.get(path, params={"limit": "200", **filters, **after})
        assert answer.status_code == 200, answer.text
        yield answer.json()["items"]
        if answer.json()["next"] is None:
            return
        after = {"after": answer.json()["next"]}


async def counts_of(story: Story, query: str) -> dict[str, int]:
    return {row["status"]: row["n"] for row in await rows(story.record.read_store_url, query)}


async def rows(url: str, query: str, *arguments: Any) -> list[dict[str, Any]]:
    connection: asyncpg.Connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()
