"""Ordinary requests while many clients dawdle: each sends a byte of its request a second until it is cut off, and anew.

WAYBILL_BENCH_SLOW: how many of them.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import httpx2

from benchmarks.measure import measure, report
from dev import throwaway

SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8"))
SLOW = int(os.environ.get("WAYBILL_BENCH_SLOW", "300"))
REQUEST = b"POST /orders HTTP/1.1\r\nHost: waybill\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


async def run() -> None:
    """Measure, print, write results/slow.json."""
    async with throwaway.stack() as record, httpx2.AsyncClient(base_url=record.api_url, timeout=60) as http:

        async def read() -> None:
            (await http.get("/orders")).raise_for_status()

        alone = await measure("alone", 4, read, seconds=SECONDS, warm_up=100)
        async with _dawdlers(record.api_url, SLOW):
            beside = await measure(f"beside {SLOW} slow connections", 4, read, seconds=SECONDS)
    ratio = beside.median / alone.median
    report("slow", "reads", [alone, beside], [(f"times the median latency, beside {SLOW} slow", ratio, "at most 1.5")])


@asynccontextmanager
async def _dawdlers(url: str, number: int) -> AsyncGenerator[None]:
    """So many slow connections, open when the block begins."""
    parts = urlsplit(url)
    opened = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(_dawdle(str(parts.hostname), parts.port or 80, opened)) for _ in range(number)]
    for _ in tasks:
        await opened.acquire()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _dawdle(host: str, port: int, opened: asyncio.Semaphore) -> None:
    while True:
        reader, writer = await asyncio.open_connection(host, port)
        opened.release()
        with suppress(ConnectionError):
            for at in range(len(REQUEST)):
                if reader.at_eof():
                    break
                writer.write(REQUEST[at : at + 1])
                await writer.drain()
                await asyncio.sleep(1)
        writer.close()
