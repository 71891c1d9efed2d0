"""Whether worker processes share the load: lifecycles with one and with two of them, and which process the CPU goes to.

Everything runs on one machine, the load too. So that what is measured travels, CPU is told per lifecycle: it says how
many lifecycles a second one core does, of each kind of process, where cores are not shared.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

import httpx2
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.lifecycles import SECONDS, lifecycle
from benchmarks.measure import Figures, measure, report
from dev import throwaway
from dev.record import Record

WORKERS = (1, 2)
CLIENTS = (8, 32)


async def run() -> None:
    """Measure, print, write results/workers.json."""
    figures: list[Figures] = []
    table = Table("workers", "clients", title="CPU, ms per lifecycle", title_justify="left")
    for kind in ("temporal", "workers", "api", "postgres", "load", "all", "of the machine"):
        table.add_column(kind, justify="right")
    for number in WORKERS:
        async with throwaway.stack(workers=number) as record, _client(record) as http:
            for clients in CLIENTS:
                await measure("warm-up", clients, partial(lifecycle, http), seconds=SECONDS / 4)
                before, began = _cpu(record), time.perf_counter()
                measured = await measure(_name(number), clients, partial(lifecycle, http), seconds=SECONDS)
                took = time.perf_counter() - began
                spent = {kind: seconds - before[kind] for kind, seconds in _cpu(record).items()}
                figures.append(measured)
                table.add_row(str(number), str(clients), *_row(spent, measured.done, took))
    rate = {(each.variant, each.clients): each.per_second for each in figures}
    report(
        "workers",
        "lifecycles",
        figures,
        [
            (f"times one worker, {clients} clients", rate[_name(2), clients] / rate[_name(1), clients], "more than 1")
            for clients in CLIENTS
        ],
    )
    Console(width=110).print(table)


def _client(record: Record) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=record.api_url, timeout=60)


def _name(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _row(spent: Mapping[str, float], done: int, took: float) -> list[str]:
    total = sum(spent.values())
    cores = os.cpu_count() or 1
    return [*(f"{seconds / done * 1000:.1f}" for seconds in (*spent.values(), total)), f"{total / took / cores:.0%}"]


def _cpu(record: Record) -> dict[str, float]:
    """Seconds of CPU that each kind of process has spent until now, in the order of the table's columns."""
    pids = record.pids
    return {
        "temporal": _spent([pids.temporal]),
        "workers": _spent(pids.workers),
        "api": _spent([pids.api]),
        "postgres": _spent([pids.postgres]),
        "load": _spent([os.getpid()], children=False),
    }


def _spent(pids: Iterable[int], *, children: bool = True) -> float:
    """With what their children have spent, those that run and those that have ended: PostgreSQL works in children."""
    total = 0.0
    for pid in pids:
        process = psutil.Process(pid)
        for each in (process, *(process.children(recursive=True) if children else ())):
            with suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system + (times.children_user + times.children_system if children else 0)
    return total
