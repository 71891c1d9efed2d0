"""Worker processes as an operator runs them: several side by side, told to stop while commands are under way."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
import pytest
from temporalio.client import Client

from dev.errors import DevError
from dev.ports import settle
from eventstore.postgres import PostgresStore
from ordering import Orders
from support import eventually
from worker_processes import Worker, worker_process


@pytest.fixture
def task_queue() -> str:
    return f"fleet-{uuid4()}"


@pytest.fixture
def worker(
    event_store_url: str, read_store_url: str, temporal: Client, task_queue: str
) -> Callable[..., AbstractAsyncContextManager[Worker]]:
    """Starts `waybill worker` with these options and settings."""
    environment = {
        "WAYBILL_EVENT_STORE_URL": event_store_url,
        "WAYBILL_READ_STORE_URL": read_store_url,
        "WAYBILL_TASK_QUEUE": task_queue,
        "TEMPORAL_ADDRESS": temporal.service_client.config.target_host,
    }

    return lambda *options, **settings: worker_process(environment | settings, *options)


@pytest.fixture
async def orders(event_store_url: str, temporal: Client, task_queue: str) -> AsyncGenerator[Orders]:
    async with PostgresStore.open(event_store_url) as store:
        yield Orders(temporal, store, task_queue)


@asynccontextmanager
async def store_held_up(url: str) -> AsyncGenerator[Callable[[], Any]]:
    """Appends wait within this block; gives a function that says whether one does."""
    connection = await asyncpg.connect(url)
    watching = await asyncpg.connect(url)

    async def waits() -> bool:
        waiting = "select exists(select from pg_locks where not granted and database = (select oid from pg_database "
        return await watching.fetchval(f"{waiting} where datname = current_database()))")

    try:
        async with connection.transaction():
            await connection.execute("lock table events in share mode")
            yield waits
    finally:
        await connection.close()
        await watching.close()


@asynccontextmanager
async def command_under_way(orders: Orders, url: str) -> AsyncGenerator[None]:
    """An order is being created within this block, and nobody waits for the answer."""
    async with store_held_up(url) as waits:
        creating = asyncio.create_task(orders.create(uuid4()))
        await eventually(waits, what="the append")
        try:
            yield
        finally:
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)


def two_ports() -> int:
    """A free port whose successor is free, too."""
    while True:
        (port,) = settle({"the first": 0})
        with suppress(DevError):
            settle({"the second": port + 1})
            return port


def processes_of(worker: Worker) -> dict[str, int]:
    """The process ids of a fleet's workers, by the names in its log."""
    return {line["process"]: line["pid"] for line in worker.lines if line["event"] == "worker.ready"}


async def test_a_command_that_is_under_way_is_finished_before_a_worker_stops(worker, orders, event_store_url):
    order_id = uuid4()
    async with worker() as process:
        await process.said("worker.ready")
        async with store_held_up(event_store_url) as waits:
            creating = asyncio.create_task(orders.create(order_id))
            await eventually(waits, what="the append")
            process.stop()
            await process.said("worker.stopping")
        receipt = await asyncio.wait_for(creating, 30)
        assert await process.ended() == 0
    assert receipt.version == 1
    assert await orders.types(order_id) == ["OrderCreated"]


async def test_a_command_that_a_worker_can_not_finish_in_time_is_finished_by_another(worker, orders, event_store_url):
    order_id = uuid4()
    async with worker(WAYBILL_WORKER_SHUTDOWN_TIMEOUT="0.2") as process:
        await process.said("worker.ready")
        async with store_held_up(event_store_url) as waits:
            creating = asyncio.create_task(orders.create(order_id))
            await eventually(waits, what="the append")
            process.stop()
            assert await process.ended() == 1
        assert process.lines[-1]["event"] == "worker.not_stopped_in_time"
    async with worker() as process:
        receipt = await asyncio.wait_for(creating, 30)
        process.stop()
        assert await process.ended() == 0
    assert receipt.version == 1


async def test_a_second_signal_ends_a_worker_at_once(worker, orders, event_store_url):
    async with worker() as process:
        await process.said("worker.ready")
        async with command_under_way(orders, event_store_url):
            process.stop()
            await process.said("worker.stopping")
            process.stop()
            assert await process.ended() == 128 + signal.SIGTERM


async def test_workers_run_side_by_side_and_one_that_dies_is_started_again(worker, orders):
    port = two_ports()
    async with worker("--processes", "2", WAYBILL_METRICS_PORT=str(port)) as fleet:
        await fleet.said("fleet.ready", processes=2)
        assert processes_of(fleet).keys() == {"worker-1", "worker-2"}
        first = processes_of(fleet)["worker-1"]
        async with httpx2.AsyncClient() as http:
            for number in range(2):
                answer = await http.get(f"http://127.0.0.1:{port + number}/metrics")
                assert answer.is_success

        os.kill(first, signal.SIGKILL)
        await eventually(lambda: processes_of(fleet)["worker-1"] != first, within=60)

        assert (await orders.create(uuid4())).version == 1
        fleet.stop()
        assert await fleet.ended() == 0
    stopped = [line["process"] for line in fleet.lines if line["event"] == "worker.stopped"]
    assert sorted(stopped) == ["worker-1", "worker-2"]


async def test_a_second_signal_ends_all_workers_at_once(worker, orders, event_store_url):
    async with worker("--processes", "2") as fleet:
        await fleet.said("fleet.ready")
        async with command_under_way(orders, event_store_url):
            fleet.stop()
            await fleet.said("worker.stopping")
            fleet.stop()
            assert await fleet.ended() == 128 + signal.SIGTERM


async def test_workers_that_can_not_start_end_the_command_with_one_line(worker):
    nowhere = {"WAYBILL_EVENT_STORE_URL": "postgresql://127.0.0.1:1/x", "WAYBILL_START_TIMEOUT": "0.5"}
    async with worker("--processes", "2", **nowhere) as fleet:
        assert await fleet.ended() == 1
    assert fleet.rest[-1].startswith("Error: worker-")
    assert "no PostgreSQL at 127.0.0.1:1" in fleet.rest[-1]


_WITH_LITTLE_TIME_OF_ITS_OWN = """
import sys, fleet, settings
from dev.errors import DevError

fleet._START_TIMEOUT = 3.0
try:
    fleet.main(settings.load(), 2)
except DevError as error:
    sys.exit(str(error))
"""


async def test_workers_that_wait_for_postgresql_are_given_the_time_for_it():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _WITH_LITTLE_TIME_OF_ITS_OWN),
        env=os.environ | {"WAYBILL_EVENT_STORE_URL": "postgresql://127.0.0.1:1/x", "WAYBILL_START_TIMEOUT": "5"},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 60)
    # Their own word, and not that of who would wait no longer.
    assert "no PostgreSQL at 127.0.0.1:1" in told.decode().splitlines()[-1]
    assert "not ready" not in told.decode().splitlines()[-1]
