"""The worker process: settings -> stores -> Temporal -> the order process, projections and event handlers."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import structlog
import uvloop
from prometheus_client import start_http_server
from temporalio.client import Client

import settings as configuration
from activities import all_activities
from core_metrics import measured_runtime
from eventstore.adopted import AdoptedStore
from eventstore.patience import give_up, patiently
from eventstore.pool import open_pool
from garbage import collect_seldom
from observability import configure_logging
from projections.handlers.aggregate_deletion import PURGING
from projections.handlers.driver import run as run_handlers
from projections.handlers.registry import all_handlers
from projections.registry import PROJECTIONS
from projections.runner import run as run_projections
from settings import Settings
from tracing import exporting
from workflows.connection import connect
from workflows.encryption import data_converter
from workflows.runs import wake as wake_run
from workflows.search_attributes import register_search_attributes
from workflows.worker import order_worker

log = structlog.get_logger(__name__)

FAREWELL = 5.0
"""Seconds that a worker may take to close what it has opened, once its steps have had their time."""


def main(settings: Settings) -> None:
    """Run a worker until SIGTERM or SIGINT; running steps may finish first."""
    configure_logging(settings.log_level, settings.log_format)
    collect_seldom()
    with exporting("waybill-worker"):
        uvloop.run(run(settings))


async def run(settings: Settings) -> None:
    """Work until a signal says stop, then finish what has begun, within a bound; a second signal ends it at once.

    While it still starts there is nothing to finish. If a part of it can't go on, it stops likewise, and exits with
    code 1.
    """
    stop, starting = asyncio.Event(), asyncio.timeout(None)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _told_to_stop, settings, stop, starting, number)
    async with AsyncExitStack() as resources:
        try:
            async with starting:
                broken = await resources.enter_async_context(running(settings))
        except TimeoutError:
            if not stop.is_set():
                raise
            log.info("worker.stopped")
            return
        log.info("worker.ready", pid=os.getpid(), task_queue=settings.task_queue, version=settings.worker_version)
        tell_ready()
        await _first_of(stop, broken)
        log.info("worker.stopping", within=settings.worker_shutdown_timeout)
        if broken.is_set():
            _stop_within(settings)
    log.info("worker.stopped")
    if broken.is_set():
        sys.exit(1)


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _told_to_stop(settings: Settings, stop: asyncio.Event, starting: asyncio.Timeout, number: signal.Signals) -> None:
    if stop.is_set():
        # Not by the signal's own effect: the first process of a container has none.
        log.warning("worker.cut_short", signal=number.name)
        os._exit(128 + number)
    stop.set()
    give_up(starting)
    _stop_within(settings)


def _stop_within(settings: Settings) -> None:
    asyncio.get_running_loop().call_later(settings.worker_shutdown_timeout + FAREWELL, _overdue)


def _overdue() -> None:
    log.error("worker.not_stopped_in_time")
    os._exit(1)


def tell_ready() -> None:
    """Tell whoever has started this process that it works now, in the way of systemd (Type=notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as messenger:
        messenger.connect("\0" + address[1:] if address.startswith("@") else address)
        messenger.send(f"READY=1\nMAINPID={os.getpid()}".encode())


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[asyncio.Event]:
    """A worker with all that it needs, opened in order and closed in reverse.

    Gives an event that is set when a part of it has ended by itself: a new process will do better than half of one.
    """
    broken = asyncio.Event()
    async with AsyncExitStack() as resources:
        runtime = None
        if settings.metrics_port is not None:
            runtime = measured_runtime()
            resources.enter_context(_metrics(settings.metrics_host, settings.metrics_port))
        store = await resources.enter_async_context(
            patiently(lambda: AdoptedStore.open(settings.event_store_url, settings.pool_size), settings.start_timeout)
        )
        converter = data_converter(settings.payload_keys, settings.payload_key)
        client = await connect(configuration.temporal(), converter=converter, runtime=runtime)
        await register_search_attributes(client)
        if settings.projections:
            await resources.enter_async_context(_projecting(settings, store, broken))
            await resources.enter_async_context(_handling(settings, store, client, broken))
        worker = order_worker(
            client,
            all_activities(store, claim_lease=settings.claim_lease, snapshot_interval=settings.snapshot_interval),
            task_queue=settings.task_queue,
            max_workflow_tasks=settings.worker_max_workflow_tasks,
            max_steps=settings.worker_max_steps,
            max_cached_workflows=settings.worker_max_cached_workflows,
            shutdown_timeout=settings.worker_shutdown_timeout,
            version=settings.worker_version,
        )
        await resources.enter_async_context(worker)
        yield broken


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
async def _projecting(settings: Settings, store: AdoptedStore, broken: asyncio.Event) -> AsyncGenerator[None]:
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
    async with _beside("projections", work, broken):
        yield


@asynccontextmanager
async def _handling(
    settings: Settings, store: AdoptedStore, client: Client, broken: asyncio.Event
) -> AsyncGenerator[None]:
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
            views = await resources.enter_async_context(
                patiently(lambda: open_pool(settings.read_store_url, 1, **PURGING), settings.start_timeout)
            )
        await resources.enter_async_context(
            _beside("handlers", run_handlers(all_handlers(store, wake, purge_from=views), store), broken)
        )
        yield


@asynccontextmanager
async def _beside(name: str, work: Coroutine[Any, Any, None], broken: asyncio.Event) -> AsyncGenerator[None]:
    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("worker.work_ended", work=name, exc_info=task.exception())
            broken.set()

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


if __name__ == "__main__":
    try:
        main(configuration.load())
    except (configuration.SettingsError, ConnectionError) as error:
        sys.exit(f"waybill worker: {error}")
