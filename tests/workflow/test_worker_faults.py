"""What the order process makes of workers that die or forget, and of runs that continue as new."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import chain
from uuid import UUID, uuid4

import asyncpg
import pytest
from temporalio.client import Client, WorkflowExecutionStatus

from api.commands import Commands
from dev.leash import leashed
from domain.refusals import ProductsBlocked
from eventstore.postgres import PostgresStore
from faults import interposed
from ordering import BLOCKED, PRODUCT, Orders, command, no_task_has_failed, worker, working
from settings import Settings
from support import eventually
from temporal_servers import CONTINUE_SOON, temporal_server
from workflows.messages import workflow_id


async def test_every_run_can_be_brought_back_from_its_history_at_any_moment(temporal, store):
    order_id = uuid4()
    async with working(temporal, store, max_cached_workflows=0) as orders:
        await orders.create(order_id, items=3)
        await orders.add(order_id, product=BLOCKED)
        with pytest.raises(ProductsBlocked):
            await orders.complete(order_id)
        await store.unblock_product(UUID(BLOCKED))
        assert (await orders.complete(order_id)).settled_position > 0
        await orders.ship(order_id)
        assert await orders.client.get_workflow_handle(workflow_id(order_id)).result() == "shipped"
        await no_task_has_failed(orders)


async def test_a_command_in_the_hands_of_a_worker_that_is_stopped_is_finished_by_another(
    temporal, store, event_store_url
):
    order_id, queue = uuid4(), f"test-{uuid4()}"
    orders = Orders(temporal, store, queue)
    reached = asyncio.Event()

    async def hang(*_: object) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with PostgresStore.open(event_store_url) as its_store:
        async with worker(temporal, its_store, queue, shutdown_timeout=0.1):
            await orders.create(order_id)
            with interposed(its_store, "append", hang):
                adding = asyncio.create_task(orders.add(order_id))
                await asyncio.wait_for(reached.wait(), 10)
        async with worker(temporal, store, queue):
            assert (await adding).version == 2
            await no_task_has_failed(orders)


@asynccontextmanager
async def worker_process(temporal: Client, url: str, queue: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    environment = {
        "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
        "WAYBILL_EVENT_STORE_URL": url,
        "WAYBILL_TASK_QUEUE": queue,
        "WAYBILL_PROJECTIONS": "false",
    }
    process = await asyncio.create_subprocess_exec(
        *leashed([sys.executable, "-P", "-m", "worker"], signal.SIGKILL), env={**os.environ, **environment}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_command_in_the_hands_of_a_worker_that_is_killed_is_finished_by_another(
    temporal, store, event_store_url
):
    order_id, queue = uuid4(), f"test-{uuid4()}"
    orders = Orders(temporal, store, queue)
    orders.task_timeout = timedelta(seconds=1)
    lock = await asyncpg.connect(event_store_url)
    try:
        async with worker_process(temporal, event_store_url, queue) as killed, lock.transaction():
            # The head of the global sequence: whoever appends waits for it.
            await lock.execute("select from public.streams where stream_id = 0 for update")
            creating = asyncio.create_task(orders.create(order_id))
            await eventually(lambda: _waiting(lock), within=20)
            killed.kill()
            await killed.wait()
        async with worker_process(temporal, event_store_url, queue):
            assert (await asyncio.wait_for(creating, 30)).version == 1
            assert (await orders.add(order_id)).version == 2
        assert await orders.types(order_id) == ["OrderCreated", "OrderItemAdded"]
        await no_task_has_failed(orders)
    finally:
        await lock.close()


async def _waiting(connection: "asyncpg.Connection[asyncpg.Record]") -> bool:
    # Within a transaction the server shows the same picture again.
    await connection.execute("select pg_stat_clear_snapshot()")
    return await connection.fetchval(
        "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    )


async def test_no_command_is_lost_while_the_run_continues_as_new_again_and_again(store):
    order_id = uuid4()
    async with temporal_server(CONTINUE_SOON) as server, working(server.client, store) as orders:
        gateway = Commands(server.client, store, Settings(task_queue=orders.task_queue))
        await orders.create(order_id)

        item = {"id": str(order_id), "product_id": PRODUCT, "quantity": 1, "uom": "KG"}

        async def add_ten() -> list[int]:
            requests = [command("AddOrderItem", order_id, item) for _ in range(10)]
            return [(await gateway.perform(request, order_id)).version for request in requests]

        added = await asyncio.gather(*(add_ten() for _ in range(5)))
        assert sorted(chain.from_iterable(added)) == list(range(2, 52))
        assert await orders.types(order_id) == ["OrderCreated", *["OrderItemAdded"] * 50]
        await orders.complete(order_id)
        await orders.ship(order_id)

        async def statuses():
            runs = server.client.list_workflows(f"WorkflowId = '{workflow_id(order_id)}'")
            found = [run.status async for run in runs]
            assert found.count(WorkflowExecutionStatus.COMPLETED) == 1
            return found

        continued = (await eventually(statuses)).count(WorkflowExecutionStatus.CONTINUED_AS_NEW)
        assert continued >= 2
        await no_task_has_failed(orders)
