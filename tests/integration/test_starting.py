"""Processes that start while PostgreSQL is away wait for it, say so in a line, and go on when it is there."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from temporalio.client import Client

import eventstore.migrate
import projections.migrate
from databases import PrivateServer
from support import eventually


class Started:
    """A process, and the lines that it has written to stderr."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stderr
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    async def says(self, part: str) -> None:
        def said() -> bool:
            assert self.process.returncode is None, self.lines
            return any(part in event["event"] for event in self.events())

        await eventually(said, within=60, what=part)

    async def ends(self) -> int:
        async with asyncio.timeout(60):
            await self.listening
            return await self.process.wait()


@asynccontextmanager
async def started(*arguments: str, **environment: str) -> AsyncGenerator[Started]:
    """Python with these arguments, killed at the end of the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WAYBILL_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=clean | environment, stderr=asyncio.subprocess.PIPE
    )
    running = Started(process)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await running.listening
        await process.wait()


READY = {"api": "Uvicorn running", "worker": "worker.ready"}


@pytest.mark.parametrize("module", ["api", "worker"])
async def test_it_waits_for_postgresql_and_goes_on_when_that_is_there(
    private_postgres: PrivateServer, temporal: Client, module: str
) -> None:
    async with (
        private_postgres.empty(eventstore.migrate.migrate) as event_store_url,
        private_postgres.empty(projections.migrate.migrate) as read_store_url,
    ):
        await private_postgres.kill()
        async with started(
            "-m",
            module,
            WAYBILL_EVENT_STORE_URL=event_store_url,
            WAYBILL_READ_STORE_URL=read_store_url,
            WAYBILL_START_TIMEOUT="60",
            WAYBILL_API_PORT="0",
            TEMPORAL_ADDRESS=temporal.service_client.config.target_host,
        ) as process:
            await process.says("database.awaited")
            await private_postgres.start()
            await process.says(READY[module])
            assert [event["event"] for event in process.events()].count("database.awaited") == 1

            # Away again: its pools say that in a line, too.
            await private_postgres.kill()
            await process.says("Failed to restore the pool connection")
            await private_postgres.start()
        assert not any("Traceback" in line for line in process.lines), process.lines


@pytest.mark.parametrize("module", ["api", "worker"])
async def test_who_waits_for_postgresql_stops_at_once_when_it_is_told_to(module: str) -> None:
    nowhere = "postgresql://127.0.0.1:1/event_store"
    async with started("-m", module, WAYBILL_EVENT_STORE_URL=nowhere, WAYBILL_START_TIMEOUT="600") as process:
        await process.says("database.awaited")
        process.process.send_signal(signal.SIGTERM)
        assert await process.ends() == 0
    assert [event["event"].partition(".")[2] for event in process.events()] == ["awaited", "stopped"]


@pytest.mark.parametrize("module", ["api", "worker"])
async def test_who_waits_for_a_postgresql_that_says_nothing_stops_at_once_when_it_is_told_to(module: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        url = f"postgresql://127.0.0.1:{silent.getsockname()[1]}/event_store"
        async with started("-m", module, WAYBILL_EVENT_STORE_URL=url, WAYBILL_START_TIMEOUT="600") as process:
            async with asyncio.timeout(60):
                connection, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connection:
                process.process.send_signal(signal.SIGTERM)
                assert await process.ends() == 0
    assert any(event["event"].endswith(".stopped") for event in process.events())


@pytest.mark.parametrize("module", ["api", "worker"])
async def test_who_is_reset_again_and_again_gives_up_with_one_line(module: str) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.transport.abort(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"postgresql://somebody:secret@127.0.0.1:{port}/event_store"
    async with server, started("-m", module, WAYBILL_EVENT_STORE_URL=url, WAYBILL_START_TIMEOUT="0.3") as process:
        assert await process.ends() == 1
    assert [event["event"] for event in process.events()] == ["database.awaited"]
    last = process.lines[-1]
    assert last.startswith(f"waybill {module}: no PostgreSQL at 127.0.0.1:{port}, database event_store")
    assert len(process.lines) == 2
    assert "secret" not in "".join(process.lines)


# The parts outlive whatever happens to them: that one dies nevertheless takes a fault of ours.
_WITH_A_PART_THAT_DIES = """
import settings, worker

async def die(*_, **__):
    raise ZeroDivisionError("a fault of ours")

worker.{part} = die
worker.main(settings.load())
"""


@pytest.mark.parametrize(("part", "name"), [("run_projections", "projections"), ("run_handlers", "handlers")])
async def test_a_worker_of_which_a_part_dies_stops_in_order_with_code_1(
    event_store_url: str, read_store_url: str, temporal: Client, part: str, name: str
) -> None:
    async with started(
        "-c",
        _WITH_A_PART_THAT_DIES.format(part=part),
        WAYBILL_EVENT_STORE_URL=event_store_url,
        WAYBILL_READ_STORE_URL=read_store_url,
        TEMPORAL_ADDRESS=temporal.service_client.config.target_host,
    ) as process:
        assert await process.ends() == 1
    told = process.events()
    (ended,) = [event for event in told if event["event"] == "worker.work_ended"]
    assert (ended["work"], ended["level"]) == (name, "error")
    assert "ZeroDivisionError: a fault of ours" in ended["exception"]
    assert [event["event"] for event in told][-1] == "worker.stopped"
