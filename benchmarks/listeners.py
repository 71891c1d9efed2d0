"""Live listeners on one gateway process: what each costs in memory, and how late it hears of an event.

The delay is from the event's `created_at`, which is taken within its transaction, until its last byte is with the
listener: the commit itself is in it. Listeners, database and gateway share this machine.
"""

import asyncio
import os
import re
import resource
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import uuid4

import psutil
from rich.console import Console

from benchmarks.measure import Figures, report
from dev import throwaway
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent

LISTENERS = int(os.environ.get("WAYBILL_BENCH_LISTENERS", "2000"))
SECONDS = float(os.environ.get("WAYBILL_BENCH_SECONDS", "8"))
PER_SECOND = 1
_ID = re.compile(rb"^id: (\d+)\nevent:", re.MULTILINE)
_DATA = b'{"id": "00000000-0000-4000-8000-000000000000"}'


@dataclass(eq=False)
class _Listener(asyncio.Protocol):
    """Notes when which event has come."""

    heard: dict[int, float] = field(default_factory=dict[int, float])
    rest: bytes = b""
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self.opened.set()
        # What came in two pieces is found with the second one.
        data = self.rest + data
        for number in _ID.findall(data):
            self.heard.setdefault(int(number), now)
        self.rest = data[-64:]


async def run() -> None:
    """Measure, print, write results/listeners.json."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    async with (
        throwaway.stack() as record,
        PostgresStore.open(record.event_store_url) as store,
        AsyncExitStack() as connections,
    ):
        gateway = psutil.Process(record.pids.api)
        before = gateway.memory_info().rss
        listeners = [await _listen(record.api_url, connections) for _ in range(LISTENERS)]
        await asyncio.gather(*(listener.opened.wait() for listener in listeners))
        per_listener = (gateway.memory_info().rss - before) / LISTENERS / 1024
        committed: dict[int, float] = {}
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < SECONDS:
            event = NewEvent(uuid4(), "Benchmark.Appended", _DATA)
            appended = await store.append(Append(str(uuid4()), "no_stream", [event]))
            committed[appended.first_position] = appended.created_at.timestamp()
            await asyncio.sleep(max(0.0, len(committed) / PER_SECOND - elapsed))
        async with asyncio.timeout(60):
            while any(len(each.heard) < len(committed) for each in listeners):  # noqa: ASYNC110 - of all of them
                await asyncio.sleep(0.1)
    delays = sorted((each.heard[n] - at) * 1000 for each in listeners for n, at in committed.items())
    figures = Figures(
        f"{PER_SECOND} a second to each",
        LISTENERS,
        len(delays),
        len(delays) / SECONDS,
        statistics.median(delays),
        delays[int(len(delays) * 0.99)],
    )
    report("listeners", "events told", [figures], [("KiB of gateway memory per listener", per_listener, "small")])
    Console().print("latency: from the event's transaction to the listener")


async def _listen(url: str, connections: AsyncExitStack) -> _Listener:
    place = urlsplit(url)
    loop, host = asyncio.get_running_loop(), place.hostname or ""
    transport, listener = await loop.create_connection(_Listener, host, place.port or 80)
    connections.callback(transport.close)
    transport.write(b"GET /events HTTP/1.1\r\nHost: waybill.test\r\nAccept: text/event-stream\r\n\r\n")
    return listener
