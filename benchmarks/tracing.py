"""What tracing and metrics cost: lifecycles through HTTP with both on, against both off, in turns.

Two stacks run side by side, one of them with its spans sent to a collector that throws them away, and with its gateway
and worker asked for their numbers every few seconds, more often than Prometheus does. While one is measured, the other
stands still. Each turn begins with the other one, so that what else the machine does falls on both.
"""

import asyncio
import os
import statistics
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
from rich.console import Console

from benchmarks.lifecycles import SECONDS, lifecycle
from benchmarks.measure import Figures, measure, report
from dev import throwaway
from dev.ports import settle

CLIENTS = 8
TURNS = int(os.environ.get("WAYBILL_BENCH_TURNS", "6"))
SCRAPE_SECONDS = 5.0
OFF, ON = "off", "tracing and metrics on"


async def run() -> None:
    """Measure, print, write results/tracing.json."""
    figures: dict[str, list[Figures]] = {OFF: [], ON: []}
    (port,) = settle({"--metrics-port": 0})
    async with _collector() as collector:
        on = {"WAYBILL_METRICS_PORT": str(port), "OTEL_EXPORTER_OTLP_ENDPOINT": collector}
        async with (
            throwaway.stack(environment={"OTEL_SDK_DISABLED": "true"}) as plain,
            throwaway.stack(environment=on) as observed,
            httpx2.AsyncClient(base_url=plain.api_url, timeout=60) as http_off,
            httpx2.AsyncClient(base_url=observed.api_url, timeout=60) as http_on,
        ):
            scraped = (f"{observed.api_url}/metrics", f"http://127.0.0.1:{port}/metrics")
            for turn in range(TURNS + 1):
                order = ((OFF, http_off), (ON, http_on))
                for variant, http in order if turn % 2 else reversed(order):
                    async with _scraping(*scraped if variant == ON else ()):
                        name = f"{variant}, turn {turn}"
                        measured = await measure(name, CLIENTS, partial(lifecycle, http), seconds=SECONDS)
                    # The first turn warms up.
                    if turn:
                        figures[variant].append(measured)
    ratios = [on.per_second / off.per_second for off, on in zip(figures[OFF], figures[ON], strict=True)]
    report(
        "tracing",
        "lifecycles",
        [each for pair in zip(figures[OFF], figures[ON], strict=True) for each in pair],
        [("of the rate with both off, median of the turns", statistics.median(ratios), "at least 0.95")],
    )


@asynccontextmanager
async def _collector() -> AsyncGenerator[str]:
    """Its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.collector"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{int(await process.stdout.readline())}"
    finally:
        process.stdin.close()
        requests, size = map(int, (await process.stdout.readline()).split())
        await process.wait()
        Console(width=110).print(f"spans came in {requests} requests, {size:,} bytes")


@asynccontextmanager
async def _scraping(*urls: str) -> AsyncGenerator[None]:
    """As Prometheus does."""

    async def scrape() -> None:
        async with httpx2.AsyncClient(timeout=10) as http:
            while True:
                for url in urls:
                    (await http.get(url)).raise_for_status()
                await asyncio.sleep(SCRAPE_SECONDS)

    task = asyncio.create_task(scrape())
    try:
        yield
    finally:
        task.cancel()
        # What a scrape has met is told, unless it is our own cancelling.
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
