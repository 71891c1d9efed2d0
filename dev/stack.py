"""`waybill dev`: the whole of Waybill on one machine, for real, without Docker.

PostgreSQL, Temporal, workers and the gateway are child processes, configured as they would be anywhere else: by
environment variables alone.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

import eventstore.migrate
import projections.migrate
from dev import console, data_directory, ports, postgres, temporal
from dev.record import Pids, Record
from dev.supervisor import Command, Supervisor
from settings import Settings

_EVENT_STORE = "event_store"
_READ_STORE = "read_store"


@dataclass(frozen=True)
class Options:
    """Port 0 is any free one. `tuned` False leaves Temporal's development server as it comes."""

    data_dir: Path
    fresh: bool = False
    api_port: int = 8000
    temporal_port: int = 7233
    temporal_ui_port: int = 8233
    workers: int = 1
    tuned: bool = True


async def run(options: Options, settings: Settings) -> None:
    """Run the stack until a signal says stop; then stop it in order. Raises DevError if it can't start."""
    started = time.monotonic()
    stop = _stop_signal()
    with data_directory.claimed(options.data_dir, fresh=options.fresh) as directory:
        stack = await asyncio.to_thread(plan, options, settings.task_queue, directory)
        try:
            await _run(stack, directory, stop, started)
        finally:
            stack.postgres.tidy()


async def _run(stack: "Stack", directory: Path, stop: asyncio.Event, started: float) -> None:
    def restarted() -> None:
        if Record.read(directory) is not None:
            stack.record(supervisor).write(directory)

    async with Supervisor(console.say, restarted) as supervisor:
        boot = asyncio.create_task(stack.boot(supervisor))
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({boot, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if boot.done():
                await boot
                record = stack.record(supervisor)
                record.write(directory)
                console.announce(record, directory, time.monotonic() - started)
                await stopped
            console.say("waybill", "stopping")
        finally:
            await _cancel(boot, stopped)
            # Before the first child goes: who finds the record counts on all of them.
            Record.remove(directory)


@dataclass(frozen=True)
class Stack:
    """The children, and what each needs to know of the others."""

    postgres: postgres.Server
    temporal: temporal.Server
    api_port: int
    task_queue: str
    workers: tuple[str, ...]

    async def boot(self, supervisor: Supervisor) -> None:
        """Start all. The order of the lines is the order of starting, and backwards that of stopping."""
        await _together(self.start_databases(supervisor), supervisor.start(self.temporal.command()))
        await _together(*(supervisor.start(self.worker(name)) for name in self.workers), supervisor.start(self.api()))

    def record(self, supervisor: Supervisor) -> Record:
        return Record(
            api_url=self.api_url,
            temporal_address=self.temporal.address,
            temporal_ui_url=self.temporal.ui_url,
            namespace=temporal.NAMESPACE,
            task_queue=self.task_queue,
            event_store_url=self.postgres.url(_EVENT_STORE, postgres.ROLE),
            read_store_url=self.postgres.url(_READ_STORE, postgres.ROLE),
            pids=Pids(
                postgres=supervisor.pid("postgres"),
                temporal=supervisor.pid("temporal"),
                api=supervisor.pid("api"),
                workers=[supervisor.pid(name) for name in self.workers],
            ),
        )

    async def start_databases(self, supervisor: Supervisor) -> None:
        await supervisor.start(self.postgres.command())
        await self.postgres.create_databases([_EVENT_STORE, _READ_STORE])
        await _together(
            eventstore.migrate.migrate(self.postgres.url(_EVENT_STORE, postgres.ROLE)),
            projections.migrate.migrate(self.postgres.url(_READ_STORE, postgres.ROLE)),
        )

    def worker(self, name: str) -> Command:
        return Command(
            name=name,
            argv=[sys.executable, "-P", "-m", "worker"],
            ready=lambda pid: self.temporal.polled_by(pid, self.task_queue),
            environment=self._environment(),
        )

    def api(self) -> Command:
        return Command(
            name="api",
            argv=[sys.executable, "-P", "-m", "api"],
            ready=self._api_ready,
            environment=self._environment(),
        )

    async def _api_ready(self, _pid: int) -> bool:
        async with httpx2.AsyncClient(timeout=2, trust_env=False) as client:
            try:
                answer = await client.get(f"{self.api_url}/readyz")
            except httpx2.TransportError:
                return False
        return answer.is_success

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.api_port}"

    def _environment(self) -> dict[str, str]:
        """The caller's, so that every setting can be tried here; but nothing in it may lead to other servers."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")}
        return {
            "WAYBILL_LOG_FORMAT": "console",
            **inherited,
            "PYTHONUNBUFFERED": "1",
            "WAYBILL_EVENT_STORE_URL": self.postgres.url(_EVENT_STORE, postgres.ROLE),
            "WAYBILL_READ_STORE_URL": self.postgres.url(_READ_STORE, postgres.ROLE),
            "WAYBILL_TASK_QUEUE": self.task_queue,
            "WAYBILL_API_HOST": "127.0.0.1",
            "WAYBILL_API_PORT": str(self.api_port),
            "WAYBILL_API_URL": self.api_url,
            "WAYBILL_TEMPORAL_UI_URL": self.temporal.ui_url,
            "TEMPORAL_ADDRESS": self.temporal.address,
            "TEMPORAL_NAMESPACE": temporal.NAMESPACE,
            "TEMPORAL_CONFIG_FILE": os.devnull,
        }


def plan(options: Options, task_queue: str, directory: Path) -> Stack:
    """Everything that may be found wrong before the first child starts."""
    api_port, temporal_port, ui_port = ports.settle(
        {
            "--api-port": options.api_port,
            "--temporal-port": options.temporal_port,
            "--temporal-ui-port": options.temporal_ui_port,
        }
    )
    database = data_directory.temporal_database(directory)
    temporal_server = temporal.Server(temporal.binary(), database, temporal_port, ui_port, tuned=options.tuned)
    where = data_directory.postgres_data(directory)
    postgres_server = postgres.prepare(where)
    if postgres_server.data != where:
        console.say("waybill", f"PostgreSQL's user can't enter {directory}: its data is in {postgres_server.data}")
    return Stack(
        postgres=postgres_server,
        temporal=temporal_server,
        api_port=api_port,
        task_queue=task_queue,
        workers=("worker",) if options.workers == 1 else tuple(f"worker-{n + 1}" for n in range(options.workers)),
    )


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _together(*parts: Coroutine[Any, Any, Any]) -> None:
    """All of them at once; the first failure ends the others."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancel(*tasks)


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
