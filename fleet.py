"""`waybill worker --processes N`: workers side by side, for a host with several cores, under one supervisor.

They share nothing: each is what `waybill worker` is alone. What dies is started again, and what they log goes into one
log, each line with the name of its process.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import gettempdir
from typing import Any
from uuid import uuid4

import click
import structlog

from dev.supervisor import Command, Log, Supervisor
from observability import configure_logging
from settings import Settings
from worker import FAREWELL, tell_ready

log = structlog.get_logger(__name__)

# Seconds that a process may take to start when it waits for nobody: many of them may share one core.
_START_TIMEOUT = 60.0


def main(settings: Settings, processes: int) -> int:
    """Run so many workers until SIGTERM or SIGINT, then let all of them stop as each would alone.

    A second signal ends them at once. Gives the exit code: 0 if all have stopped in good order, 1 if one hasn't, and as
    a shell says it if a second signal came. Raises ChildFailedError if one can't be started to begin with.
    """
    configure_logging(settings.log_level, settings.log_format)
    return asyncio.run(_run(settings, processes))


async def _run(settings: Settings, processes: int) -> int:
    signals = _signals()
    async with _messages() as (address, working), AsyncExitStack() as stack:
        log_line = _log(settings)
        # One each, so that they stop together and not one after the other.
        supervisors = [await stack.enter_async_context(Supervisor(log_line)) for _ in range(processes)]
        workers = [_worker(settings, number, address, working) for number in range(processes)]
        starting = asyncio.gather(*(each.start(worker) for each, worker in zip(supervisors, workers, strict=True)))
        stop = asyncio.create_task(signals.get())
        await asyncio.wait({starting, stop}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            await starting
            log.info("fleet.ready", processes=processes)
            tell_ready()
            await stop
        starting.cancel()
        log.info("fleet.stopping")
        return await _stop(supervisors, signals)


async def _stop(supervisors: Sequence[Supervisor], signals: asyncio.Queue[signal.Signals]) -> int:
    stopping = asyncio.gather(*(each.stop() for each in supervisors))
    hurry = asyncio.create_task(signals.get())
    await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
    cut_short = 0
    if hurry.done():
        cut_short = 128 + hurry.result()
        for each in supervisors:
            each.kill()
    hurry.cancel()
    codes = [code for ended in await stopping for code in ended]
    log.info("fleet.stopped", exit_codes=codes)
    return cut_short or int(any(codes))


def _worker(settings: Settings, number: int, address: str, working: set[int]) -> Command:
    environment = {**os.environ, "NOTIFY_SOCKET": address}
    if settings.metrics_port:
        environment["WAYBILL_METRICS_PORT"] = str(settings.metrics_port + number)

    async def ready(pid: int) -> bool:
        return pid in working

    return Command(
        name=f"worker-{number + 1}",
        argv=[sys.executable, "-P", "-m", "cli", "worker"],
        ready=ready,
        environment=environment,
        orphan_signal=signal.SIGTERM,
        # It waits for the event store, and, if it purges, for the read store after that.
        start_timeout=_START_TIMEOUT + 2 * settings.start_timeout,
        # It gives up by itself a little earlier.
        stop_timeout=settings.worker_shutdown_timeout + 2 * FAREWELL,
    )


def _signals() -> asyncio.Queue[signal.Signals]:
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, received.put_nowait, number)
    return received


class _Messages(asyncio.DatagramProtocol):
    """Hears who works, as the workers tell it (worker.py)."""

    def __init__(self, working: set[int]) -> None:
        self._working = working

    def datagram_received(self, data: bytes, addr: Any) -> None:
        del addr
        told = dict(line.split("=", 1) for line in data.decode(errors="replace").splitlines() if "=" in line)
        if told.get("READY") == "1" and told.get("MAINPID", "").isdecimal():
            self._working.add(int(told["MAINPID"]))


@asynccontextmanager
async def _messages() -> AsyncGenerator[tuple[str, set[int]]]:
    """Where workers are to tell that they work, and the process ids of those that have."""
    working: set[int] = set()
    # A name of Linux's own kind, which needs no directory that one may write to; elsewhere a file that is left behind.
    path = ("\0" if sys.platform == "linux" else f"{gettempdir()}/") + f"waybill-{uuid4().hex}"
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Messages(working), local_addr=path, family=socket.AF_UNIX
    )
    try:
        yield path.replace("\0", "@"), working
    finally:
        transport.close()


def _log(settings: Settings) -> Log:
    def as_json(name: str, line: str) -> None:
        if line.startswith("{") and line.endswith("}"):
            click.echo(f'{line[:-1]}, "process": "{name}"}}', err=True)
        else:
            log.info("fleet.output", process=name, line=line)

    def for_people(name: str, line: str) -> None:
        click.echo(f"{name} | {line}", err=True)

    return as_json if settings.log_format == "json" else for_people
