"""What every benchmark needs: clients that work side by side for a while, and the figures that come of it."""

import asyncio
import json
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figures:
    """One variant at one number of clients. Latencies in milliseconds, of one unit of work."""

    variant: str
    clients: int
    done: int
    per_second: float
    median: float
    p99: float


async def measure(
    variant: str, clients: int, work: Callable[[], Awaitable[object]], *, seconds: float, warm_up: int = 0
) -> Figures:
    """`clients` that do `work` again and again for `seconds`; what is under way at the end is finished and counted."""
    await asyncio.gather(*(work() for _ in range(warm_up)))
    latencies: list[float] = []
    start = time.perf_counter()

    async def client() -> None:
        while (before := time.perf_counter()) - start < seconds:
            await work()
            latencies.append((time.perf_counter() - before) * 1000)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
    return figures_of(variant, clients, latencies, time.perf_counter() - start)


def figures_of(variant: str, clients: int, latencies: Sequence[float], took: float) -> Figures:
    """What came of it: latencies in milliseconds, `took` in seconds."""
    return Figures(
        variant,
        clients,
        len(latencies),
        len(latencies) / took,
        statistics.median(latencies),
        sorted(latencies)[int(len(latencies) * 0.99)],
    )


def report(name: str, unit: str, figures: Sequence[Figures], ratios: Sequence[tuple[str, float, str]]) -> None:
    """Print the table and the ratios (what, value, target), and keep both in results/."""
    console = Console(width=110)
    table = Table("variant", "clients", f"{unit}/s", "median ms", "p99 ms", title=name, title_justify="left")
    for each in figures:
        table.add_row(
            each.variant, str(each.clients), f"{each.per_second:,.1f}", f"{each.median:,.1f}", f"{each.p99:,.1f}"
        )
    console.print(table)
    for what, value, target in ratios:
        console.print(f"{what}: [bold]{value:.2f}[/] (target {target})")
    RESULTS.mkdir(exist_ok=True)
    result = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "figures": [asdict(each) for each in figures],
        "ratios": [{"what": what, "value": round(value, 3), "target": target} for what, value, target in ratios],
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
