"""The events that a real Commanded application left behind, clean and dirty, are projected as they are."""

import csv
import gzip
from collections.abc import AsyncGenerator
from io import BytesIO
from pathlib import Path

import asyncpg
import pytest

from eventstore.postgres import PostgresStore
from projecting import caught_up, projecting, rows

ADOPTED = Path(__file__).parents[3] / "shared" / "data" / "elixir-event-store"

pytestmark = pytest.mark.skipif(not ADOPTED.exists(), reason="the real data are not beside the project")


@pytest.fixture
async def store(event_store_url: str, which: str) -> AsyncGenerator[PostgresStore]:
    connection = await asyncpg.connect(event_store_url)
    for table in ("streams", "events", "stream_events"):
        content = gzip.decompress((ADOPTED / which / f"{table}.csv.gz").read_bytes())
        header, *lines = content.splitlines(keepends=True)
        if table == "streams":
            (all_stream,) = [line for line in lines if line.startswith(b"0,")]
            lines.remove(all_stream)
            head = int(next(csv.reader([all_stream.decode()]))[2])
            await connection.execute("update streams set stream_version = $1 where stream_id = 0", head)
        await connection.copy_to_table(
            table, source=BytesIO(b"".join(lines)), format="csv", columns=header.decode().strip().split(",")
        )
    await connection.close()
    async with PostgresStore.open(event_store_url, pool_size=4) as store:
        yield store


@pytest.mark.parametrize("which", ["clean"])
async def test_clean_history_gives_the_orders_that_the_application_had(
    store: PostgresStore, event_store_url: str, read_store_url: str
):
    async with projecting(store, event_store_url, read_store_url):
        await caught_up(store, read_store_url)

    by_status = await rows(read_store_url, "select status, count(*) from orders group by 1 order by 1")
    assert by_status == [("COMPLETED", 175), ("OPEN", 150), ("SHIPPED", 175)]
    assert await rows(read_store_url, "select count(*), sum(quantity) from order_items") == [(1101, 22086)]
    by_status = await rows(read_store_url, "select status, count(*) from shipments group by 1 order by 1")
    assert by_status == [("COMPLETED", 175), ("OPEN", 175)]


@pytest.mark.parametrize("which", ["dirty"])
async def test_dirty_history_stops_nothing_shows_what_can_be_shown_and_parks_the_rest(
    store: PostgresStore, event_store_url: str, read_store_url: str
):
    async with projecting(store, event_store_url, read_store_url):
        await caught_up(store, read_store_url)

    # Order numbers that were taken twice, and a quantity that the application's own read model dropped.
    assert await rows(read_store_url, "select count(*), count(distinct order_number) from orders") == [(82, 75)]
    assert await rows(read_store_url, "select quantity from order_items where quantity = 1.5") == [(1.5,)]
    # `{"id": null}`, for an order and for a shipment. (Nobody has adopted this database: there is no report of it.)
    parked = await rows(read_store_url, "select subscriber, position, state from waybill.parked order by 1, 2")
    assert parked == [("orders", 14, "failed"), ("orders", 17, "failed"), ("shipments", 17, "failed")]
