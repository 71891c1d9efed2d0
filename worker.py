"""The worker process: settings -> stores -> Temporal -> the order process, projections and event handlers."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import structlog
import uvloop
from prometheus_client import start_http_server
from temporalio.client import Client

import settings as configuration
from activities import all_activities
from eventstore.adopted import AdoptedStore
from eventstore.pool import open_pool
from observability import configure_logging
from projections.handlers.driver import run as run_handlers
from projections.handlers.registry import all_handlers
from projections.registry import PROJECTIONS
from projections.runner import run as run_projections
from settings import Settings
from workflows.encryption import data_converter
from workflows.runs import wake as wake_run
from workflows.search_attributes import register_search_attributes
from workflows.worker import order_worker

log = structlog.get_logger(__name__)


def main(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; running steps may finish first."""
    configure_logging(settings.log_level, settings.log_format)
    uvloop.run(run(settings))


async def run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    async with running(settings):
        log.info("worker.ready", task_queue=settings.task_queue)
        await stop.wait()
        log.info("worker.stopping")
    log.info("worker.stopped")


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[None]:
    """A worker with all that it needs, opened in order and closed in reverse."""
    async with AsyncExitStack() as resources:
        if settings.metrics_port is not None:
            resources.enter_context(_metrics(settings.metrics_host, settings.metrics_port))
        store = await resources.enter_async_context(AdoptedStore.open(settings.event_store_url, settings.pool_size))
        client = await Client.connect(
            **configuration.temporal(),
            data_converter=data_converter(settings.payload_keys, settings.payload_key),
        )
        await register_search_attributes(client)
        if settings.projections:
            await resources.enter_async_context(_projecting(settings, store))
            await resources.enter_async_context(_handling(settings, store, client))
        worker = order_worker(
            client,
            all_activities(store, claim_lease=settings.claim_lease, snapshot_interval=settings.snapshot_interval),
            task_queue=settings.task_queue,
            max_workflow_tasks=settings.worker_max_workflow_tasks,
            max_steps=settings.worker_max_steps,
            max_cached_workflows=settings.worker_max_cached_workflows,
            shutdown_timeout=settings.worker_shutdown_timeout,
        )
        await resources.enter_async_context(worker)
        yield


@contextmanager
def _metrics(host: str, port: int) -> Generator[None]:
    """Answers /metrics for Prometheus; any other path, /livez for one, gets the same and says that we are alive."""
    server, thread = start_http_server(port, host)
    log.info("worker.metrics", host=host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@asynccontextmanager
async def _projecting(settings: Settings, store: AdoptedStore) -> AsyncGenerator[None]:
    work = run_projections(
        PROJECTIONS,
        store=store,
        event_store_url=settings.event_store_url,
        read_store_url=settings.read_store_url,
        lease=settings.projection_lease,
        poll=settings.projection_poll,
        batch=settings.projection_batch,
        owner=f"{socket.gethostname()}:{os.getpid()}",
        reported=store.was_reported,
    )
    async with _beside("projections", work):
        yield


@asynccontextmanager
async def _handling(settings: Settings, store: AdoptedStore, client: Client) -> AsyncGenerator[None]:
    wake = partial(
        wake_run,
        client,
        task_queue=settings.task_queue,
        idle_seconds=settings.order_idle_timeout,
        step_seconds=settings.command_timeout,
        discreet=settings.payload_key is not None,
    )
    async with AsyncExitStack() as resources:
        views = None
        if settings.purge_deleted:
            views = await resources.enter_async_context(open_pool(settings.read_store_url, 1))
        await resources.enter_async_context(
            _beside("handlers", run_handlers(all_handlers(store, wake, purge_from=views), store))
        )
        yield


@asynccontextmanager
async def _beside(name: str, work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_outlived)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _outlived(work: asyncio.Task[None]) -> None:
    """It ends when it is cancelled. If it ends otherwise, a new process will do better than half of one."""
    if not work.cancelled():
        log.error("worker.work_ended", work=work.get_name(), exc_info=work.exception())
        signal.raise_signal(signal.SIGTERM)


if __name__ == "__main__":
    try:
        main(configuration.load())
    except (configuration.SettingsError, ConnectionError) as error:
        sys.exit(f"waybill worker: {error}")
