"""`GET /orders/{id}` through the gateway, beside a bare FastAPI route that asks asyncpg for the same.

Each is a process of its own with the same server, event loop, parser and pool size. They are asked in turns, so that
whatever else the machine does falls on both.
"""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import cycle
from uuid import UUID

from benchmarks.client import Wire
from benchmarks.many_orders import fill
from benchmarks.measure import Figures, measure, report
from benchmarks.server import databases
from dev import ports
from projections.migrate import migrate

CLIENTS = (1, 8, 32)
SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8"))
ORDERS = 1000
TURNS = 4
POOL_SIZE = 10


async def run() -> None:
    """Measure, print, write results/reads.json."""
    async with databases("events", empty=("reads",)) as server:
        await migrate(server.url("reads"))
        await fill(server.url("reads"), ORDERS)
        settings = {
            "WAYBILL_EVENT_STORE_URL": server.url("events"),
            "WAYBILL_READ_STORE_URL": server.url("reads"),
            "WAYBILL_POOL_SIZE": str(POOL_SIZE),
            # Nobody is there: a question needs no Temporal.
            "TEMPORAL_ADDRESS": "127.0.0.1:1",
        }
        async with (
            _serving("api", settings=settings) as gateway,
            _serving("benchmarks.bare_route", server.url("reads"), "{port}", str(POOL_SIZE)) as bare,
        ):
            figures: list[Figures] = []
            for clients in CLIENTS:
                figures += await _in_turns(clients, {"gateway": gateway, "bare route": bare})
    rate = {(each.variant, each.clients): each.per_second for each in figures}
    ratios = [(f"of the bare route, {n} clients", rate["gateway", n] / rate["bare route", n], "0.7") for n in CLIENTS]
    report("reads", "reads", figures, ratios)


async def _in_turns(clients: int, servers: dict[str, str]) -> list[Figures]:
    turns: dict[str, list[Figures]] = {name: [] for name in servers}
    for _ in range(TURNS):
        for name, url in servers.items():
            turns[name].append(await _read(name, url, clients))
    # The best turn of each: the others had the machine less to themselves.
    return [max(each, key=lambda figures: figures.per_second) for each in turns.values()]


async def _read(name: str, url: str, clients: int) -> Figures:
    paths = cycle(f"/orders/{UUID(int=number)}" for number in range(1, ORDERS + 1))
    wires = [await Wire.to(url) for _ in range(clients)]

    async def read() -> None:
        wire = wires.pop()
        await wire.get(next(paths))
        wires.append(wire)

    try:
        return await measure(name, clients, read, seconds=SECONDS / TURNS, warm_up=clients)
    finally:
        for wire in wires:
            wire.close()


@asynccontextmanager
async def _serving(module: str, *arguments: str, settings: dict[str, str] | None = None) -> AsyncGenerator[str]:
    """The URL of `python -m module`, as soon as it answers; it is ended with the block."""
    port = str(ports.settle({"": 0})[0])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *(argument.format(port=port) for argument in arguments),
        env={**os.environ, **(settings or {}), "WAYBILL_API_PORT": port, "WAYBILL_LOG_LEVEL": "error"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(30):
            while not await _answers(url):  # noqa: ASYNC110 - another process tells nobody when it is ready
                await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


async def _answers(url: str) -> bool:
    try:
        wire = await Wire.to(url)
        await wire.get(f"/orders/{UUID(int=1)}")
    except OSError:
        return False
    wire.close()
    return True
