"""A page of orders where there are a million of them, beside the same page where there are a thousand.

Both are asked in turns, by the gateway's own statements, so that whatever else the machine does falls on both.
"""

import os
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.many_orders import EVERY, FEW, HALF, TWO_THOUSANDTH, fill
from benchmarks.measure import Figures, figures_of, report
from benchmarks.server import databases
from projections.migrate import migrate
from projections.queries import ReadStore

SMALL = 1000
LARGE = int(os.environ.get("WAYBILL_BENCH_ORDERS", "1_000_000"))
PAGES = int(float(os.environ.get("WAYBILL_BENCH_SECONDS", "8")) * 50)
PAGE = 50
AT_ONCE = 10
FULL: Mapping[str, dict[str, Any]] = {
    "no filter": {},
    "last page": {"before": 4 * PAGE + 1},
    "status": {"status": "SHIPPED"},
    "business partner": {"business_partner": HALF},
    "status and partner": {"status": "SHIPPED", "business_partner": HALF},
    "order number": {"order_number": "SO-7"},
    "product of all orders": {"product_id": EVERY},
    "product of all, status": {"product_id": EVERY, "status": "SHIPPED"},
    "product of four orders": {"product_id": FEW},
}
"""Pages that have the same orders' worth in both stores, whose ratio is therefore the growth of the cost."""
SCARCE: Mapping[str, dict[str, Any]] = {"product of every 2000th order": {"product_id": TWO_THOUSANDTH}}
"""Between all and few: at a million orders there are 500 to sort, at a thousand there is one."""


async def run() -> None:
    """Measure, print, write results/pages.json."""
    figures: list[Figures] = []
    ratios: list[tuple[str, float, str]] = []
    async with databases(empty=("small", "large")) as server:
        for name, orders in (("small", SMALL), ("large", LARGE)):
            await migrate(server.url(name))
            await fill(server.url(name), orders)
        async with ReadStore.open(server.url("small"), 1) as small, ReadStore.open(server.url("large"), 1) as large:
            for name, asked in {**FULL, **SCARCE}.items():
                pair = await _in_turns(name, {SMALL: small, LARGE: large}, asked)
                figures += pair
                target = "at most 1.3" if name in FULL else "no target"
                ratios.append((f"{name}: of the time at {SMALL:,}", pair[1].median / pair[0].median, target))
    report("pages", "pages", figures, ratios)


async def _in_turns(name: str, stores: Mapping[int, ReadStore], asked: dict[str, Any]) -> list[Figures]:
    latencies: dict[int, list[float]] = {orders: [] for orders in stores}
    for _ in range(PAGES // AT_ONCE):
        for orders, store in stores.items():
            for _ in range(AT_ONCE):
                before = time.perf_counter()
                await store.orders(limit=PAGE, **asked)
                latencies[orders].append((time.perf_counter() - before) * 1000)
    return [figures_of(f"{name}, {n:,} orders", 1, times, sum(times) / 1000) for n, times in latencies.items()]
