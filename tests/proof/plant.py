"""A whole Waybill to be maltreated: the processes of `waybill dev`, with a proxy of ours on every way between two."""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from dev import stack
from dev.supervisor import Command, Supervisor
from proof.plan import LINKS, LOAD, WORKERS, Fault
from proof.proxy import Grpc, Http, Postgres, Proxy
from support import eventually

SETTINGS: Mapping[str, str] = {
    # So that runs end and are revived all the time, and orders are loaded from snapshots.
    "WAYBILL_ORDER_IDLE_TIMEOUT": "8",
    "WAYBILL_SNAPSHOT_EVERY": "2",
    "WAYBILL_REQUEST_TIMEOUT": "15",
    "WAYBILL_LOG_LEVEL": "warning",
}
PATIENCE = 300.0
"""Seconds until everything has to be there again when nothing is maltreated any more, on a busy machine."""
# Until something is done whose answer can be spoilt. On a day like this, that may take a while.
_UNTIL_DONE = 20.0


@dataclass
class Plant:
    stack: stack.Stack
    supervisor: Supervisor
    links: Mapping[str, Proxy]

    @property
    def url(self) -> str:
        """The gateway, as the load gets there."""
        return f"http://127.0.0.1:{self.links[LOAD].port}"

    @property
    def event_store_url(self) -> str:
        return self.stack.record(self.supervisor).event_store_url

    @property
    def read_store_url(self) -> str:
        return self.stack.record(self.supervisor).read_store_url

    async def strike(self, fault: Fault) -> int:
        """Do it, to its end. Gives how much it has hit."""
        link = self.links.get(fault.target)
        match fault.kind:
            case "kill" if link:
                return link.reset()
            case "kill":
                return await self._kill(fault.target)
            case "pause":
                return await self._pause(fault.target, fault.seconds)
            case _:
                assert link
                most = 1 + int(fault.seconds * 3)
                return await {
                    "stall": lambda: link.stall(fault.seconds),
                    "black hole": lambda: link.swallow(fault.seconds),
                    "answer lost": lambda: link.lose_answers(most, _UNTIL_DONE),
                    "error after done": lambda: link.deny_answers(most, _UNTIL_DONE),
                }[fault.kind]()

    async def _kill(self, name: str) -> int:
        """The process, or of PostgreSQL all of them, as if the machine had gone."""
        process = psutil.Process(await eventually(lambda: self._running(name), within=PATIENCE))
        family = [process, *process.children(recursive=True)]
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return 1

    async def _pause(self, name: str, seconds: float) -> int:
        process = psutil.Process(await eventually(lambda: self._running(name), within=PATIENCE))
        family = [process, *process.children(recursive=True)]
        stopped: list[psutil.Process] = []
        try:
            for each in family:
                with suppress(psutil.NoSuchProcess):
                    each.suspend()
                    stopped.append(each)
            await asyncio.sleep(seconds)
        finally:
            for each in stopped:
                with suppress(psutil.NoSuchProcess):
                    each.resume()
        return 1

    def _running(self, name: str) -> int:
        """Its process id, unless it is just being started again."""
        pid = self.supervisor.pid(name)
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            if process.status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED}:
                return pid
        return 0

    async def recovered(self) -> None:
        """Wait until every process does its work again."""
        commands = [self.stack.postgres.command(), self.stack.temporal.command(), self.stack.api()]
        for command in (*commands, *map(self.stack.worker, self.stack.workers)):

            async def is_ready(command: Command = command) -> bool:
                pid = self._running(command.name)
                return pid != 0 and await command.ready(pid)

            await eventually(is_ready, within=PATIENCE, every=0.2, what=f"{command.name} does its work")


@asynccontextmanager
async def plant(directory: Path, log: Path) -> AsyncGenerator[Plant]:
    """Running while the block does. What its processes say goes to `log`."""
    options = stack.Options(directory, api_port=0, temporal_port=0, temporal_ui_port=0, workers=len(WORKERS))
    planned = await asyncio.to_thread(stack.plan, options, "waybill", directory)
    links = {name: _link(name, planned) for name in LINKS}
    async with AsyncExitStack() as resources:
        lines = resources.enter_context(log.open("a", buffering=1))
        resources.callback(planned.postgres.tidy)
        for link in links.values():
            await resources.enter_async_context(link.listening())
        supervisor = Supervisor(lambda name, line: print(f"{name:9} | {line}", file=lines))
        await resources.enter_async_context(supervisor)
        await asyncio.gather(planned.start_databases(supervisor), supervisor.start(planned.temporal.command()))
        children = [*map(planned.worker, planned.workers), planned.api()]
        await asyncio.gather(*(supervisor.start(_through(links, child)) for child in children))
        yield Plant(planned, supervisor, links)


def _link(name: str, planned: stack.Stack) -> Proxy:
    if name == LOAD:
        return Proxy(lambda: asyncio.open_connection("127.0.0.1", planned.api_port), Http)
    if name.endswith("temporal"):
        return Proxy(lambda: asyncio.open_connection("127.0.0.1", planned.temporal.port), Grpc)
    socket = planned.postgres.sockets / ".s.PGSQL.5432"
    return Proxy(lambda: asyncio.open_unix_connection(socket), Postgres)


def _through(links: Mapping[str, Proxy], child: Command) -> Command:
    """The child, led through its proxies."""
    postgres, temporal = (links[f"{child.name} to {server}"].port for server in ("postgres", "temporal"))
    database = f"postgresql://waybill@127.0.0.1:{postgres}"
    environment = {
        **(child.environment or os.environ),
        **SETTINGS,
        "WAYBILL_EVENT_STORE_URL": f"{database}/event_store?sslmode=disable",
        "WAYBILL_READ_STORE_URL": f"{database}/read_store?sslmode=disable",
        "TEMPORAL_ADDRESS": f"127.0.0.1:{temporal}",
    }
    return replace(child, environment=environment)
