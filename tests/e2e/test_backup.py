"""Both databases are dumped while orders come in, and restored beside a Temporal that has never heard of them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import httpx2

import eventstore.migrate
import eventstore.verify
import projections.migrate
import projections.verify
from databases import Databases
from dev import postgres
from domain.ids import shipment_id
from domain.order import OrderCompleted
from eventstore.postgres import PostgresStore
from over_http import Story, gateway, problem
from projecting import caught_up
from settings import Settings
from support import eventually
from temporal_servers import temporal_server
from worker import running


@dataclass
class Customers:
    """They send one order after the other, and complete each second one."""

    http: httpx2.AsyncClient
    store: PostgresStore
    open: list[Story] = field(default_factory=list)
    completed: list[Story] = field(default_factory=list)

    async def go_on(self) -> None:
        while True:
            story = Story(self.http, self.store)
            key = {"Idempotency-Key": story.number}
            assert (await self.http.post("/orders", json=story.body, headers=key)).status_code == 201
            if len(self.open) > len(self.completed):
                assert (await self.http.post(f"{story.path}/complete")).status_code == 200
                self.completed.append(story)
            else:
                self.open.append(story)

    async def have_sent(self, count: int) -> None:
        await eventually(lambda: len(self.open) + len(self.completed) >= count, within=60)


async def postgres_tool(name: str, *arguments: str | Path) -> None:
    process = await asyncio.create_subprocess_exec(
        postgres.program(name), *arguments, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    told, complaint = await process.communicate()
    assert (process.returncode, complaint.decode()) == (0, ""), told.decode()


@asynccontextmanager
async def waybill(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    async with running(settings), gateway(settings) as http:
        yield http


async def found(http: httpx2.AsyncClient, story: Story) -> bool:
    return (await http.get(story.path)).status_code == 200


async def test_orders_go_on_from_a_backup(
    databases: Databases, temporal, event_store_url: str, read_store_url: str, tmp_path: Path, monkeypatch
):
    events, views = tmp_path / "event_store.dump", tmp_path / "read_store.dump"
    monkeypatch.setenv("TEMPORAL_ADDRESS", temporal.service_client.config.target_host)
    settings = Settings(event_store_url=event_store_url, read_store_url=read_store_url, task_queue=f"backup-{uuid4()}")
    async with PostgresStore.open(event_store_url, 2) as store, waybill(settings) as http:
        customers = Customers(http, store)
        coming = asyncio.create_task(customers.go_on())
        await customers.have_sent(10)
        # Nobody has begun its shipment when the backup is made.
        owed = Story(http, store)
        await owed.given(owed.created, OrderCompleted(id=owed.order_id))
        saved = list(customers.open), list(customers.completed)
        # The read models first: they may be behind the events then, and not ahead of them.
        await postgres_tool("pg_dump", "--format=custom", f"--file={views}", f"--dbname={read_store_url}")
        await postgres_tool("pg_dump", "--format=custom", f"--file={events}", f"--dbname={event_store_url}")
        sent = len(customers.open) + len(customers.completed)
        await customers.have_sent(sent + 1)
        coming.cancel()
        await asyncio.wait([coming])

    async with (
        databases.empty() as event_store_url,
        databases.empty() as read_store_url,
        temporal_server() as empty_temporal,
    ):
        await postgres_tool("pg_restore", "--exit-on-error", f"--dbname={event_store_url}", events)
        await postgres_tool("pg_restore", "--exit-on-error", f"--dbname={read_store_url}", views)
        assert await eventstore.migrate.migrate(event_store_url) == []
        assert await projections.migrate.migrate(read_store_url) == []
        monkeypatch.setenv("TEMPORAL_ADDRESS", empty_temporal.client.service_client.config.target_host)
        settings = Settings(event_store_url=event_store_url, read_store_url=read_store_url)
        async with PostgresStore.open(event_store_url, 2) as store, waybill(settings) as http:
            for story in (*saved[0], *saved[1], owed):
                await eventually(partial(found, http, story))

            open_order, number = saved[0][0], saved[0][0].number
            again = await http.post("/orders", json=open_order.body, headers={"Idempotency-Key": number})
            assert again.status_code == 201, "the first answer, from before the backup"
            problem(
                await http.post("/orders", json=Story(http, store).body | {"order_number": number}),
                409,
                "order-number-taken",
            )
            assert (await http.post(f"{open_order.path}/complete")).status_code == 200

            async def all_completed_are_shipped() -> bool:
                # Of the customers' too whose answer was under way when the backup was made.
                completed = await store.read_all(limit=1000, types=["Order.OrderCompleted"])
                wanted = [shipment_id(UUID(event.stream_id)) for event in completed]
                assert len(wanted) >= len((open_order, owed, *saved[1]))
                return all([await store.read_stream(str(shipment)) for shipment in wanted])

            await eventually(all_completed_are_shipped, within=60)
            shipped = await http.post(f"/shipments/{shipment_id(open_order.order_id)}/complete")
            assert shipped.status_code == 200
            await caught_up(store, read_store_url)
            audit, _ = await eventstore.verify.verify(event_store_url, lambda *_: None)
            assert audit.findings == []
            assert await projections.verify.verify(read_store_url, store, lambda *_: None) == []
