"""What a page costs at a million orders: the plans that the gateway's statements get, as PostgreSQL reports them."""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from benchmarks.many_orders import EVERY, FEW, HALF, NOBODY, NONE, OLD_HALF, RARE, THOUSANDTH, TWO_THOUSANDTH, fill
from databases import Databases
from projections.migrate import migrate
from projections.queries import ReadStore

ORDERS = 1_000_000
PAGE = 50
FILTERS: dict[str, tuple[Any, ...]] = {
    "status": ("OPEN", "SHIPPED"),
    "business_partner": (HALF, THOUSANDTH, RARE, NOBODY),
    "order_number": ("SO-7", "none"),
    "product_id": (EVERY, OLD_HALF, TWO_THOUSANDTH, FEW, NONE),
}
# The newest page, one in the middle, the last one: nearly all rows come before it.
BEFORE = (None, 2 * ORDERS, 9)


@dataclass
class Explained:
    """The read store, and the plans of what it was asked since they were last taken."""

    store: ReadStore
    plans: list[dict[str, Any]] = field(default_factory=list)

    async def orders(self, **asked: Any) -> dict[str, Any]:
        self.plans.clear()
        await self.store.orders(limit=PAGE, **asked)
        (plan,) = self.plans
        return plan


@pytest.fixture(scope="module")
async def explained(databases: Databases) -> AsyncGenerator[Explained]:
    async with databases.empty(migrate) as url:
        await fill(url, ORDERS)
        await explain_all(databases.admin_url, urlsplit(url).path.strip("/"))
        async with ReadStore.open(url, 1) as opened, opened._pool.acquire() as connection:
            explained = Explained(ReadStore(connection))  # pyright: ignore[reportArgumentType] - asked like a pool

            def log(_: object, message: Any) -> None:
                _, _, text = message.message.partition("plan:\n")
                explained.plans.append(json.loads(text)["Plan"])

            connection.add_log_listener(log)
            yield explained
            connection.remove_log_listener(log)


async def explain_all(admin_url: str, database: str) -> None:
    """Let each session in this database be told the plan of each of its statements, with what it really cost."""
    settings = {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": "0",
        "auto_explain.log_analyze": "on",
        "auto_explain.log_buffers": "on",
        "auto_explain.log_format": "json",
        "client_min_messages": "log",
        "log_min_messages": "fatal",
    }
    connection = await asyncpg.connect(admin_url)
    try:
        await connection.execute("load 'auto_explain'")
        for name, value in settings.items():
            await connection.execute(f"alter database \"{database}\" set {name} = '{value}'")
    finally:
        await connection.close()


def filters() -> Iterator[dict[str, Any]]:
    """Every filter alone and in pairs, each with every value."""
    for names in (*combinations(FILTERS, 0), *combinations(FILTERS, 1), *combinations(FILTERS, 2)):
        for values in product(*(FILTERS[name] for name in names)):
            yield dict(zip(names, values, strict=True))


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was executed of a plan."""
    if plan["Actual Loops"]:
        yield plan
        for inner in plan.get("Plans", []):
            yield from nodes(inner)


def buffers(plan: dict[str, Any]) -> int:
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def rows(node: dict[str, Any]) -> float:
    return node["Actual Rows"] * node["Actual Loops"]


@pytest.mark.parametrize("names", [names for n in (0, 1, 2) for names in combinations(FILTERS, n)])
async def test_a_page_costs_the_same_whatever_its_filters_are(explained: Explained, names: tuple[str, ...]):
    for values, before in product(product(*(FILTERS[name] for name in names)), BEFORE):
        asked = dict(zip(names, values, strict=True)) | {"before": before}
        plan = await explained.orders(**asked)

        kinds = {node["Node Type"] for node in nodes(plan)}
        assert not kinds & {"Seq Scan", "Bitmap Heap Scan", "Hash Join", "Merge Join"}, asked
        through_a_product = "product_id" in names and "order_number" not in names
        # A page is found by a few blocks for each of its rows; for a product, 5000 orders are looked through.
        assert buffers(plan) < (25_000 if through_a_product else 300), asked
        sorted_rows = max((rows(node) for node in nodes(plan) if node["Node Type"] == "Sort"), default=0)
        assert sorted_rows <= (2000 if through_a_product else PAGE + 1), asked


@pytest.mark.parametrize("product_id", [EVERY, FEW, NONE])
async def test_a_product_of_all_orders_and_one_of_few_are_found_at_once(explained: Explained, product_id: Any):
    plan = await explained.orders(product_id=product_id)

    assert buffers(plan) < 600


async def test_pages_that_are_short_lead_on_and_miss_nothing(explained: Explained):
    """Those with the product are all in the older half: the first pages are empty."""
    asked: dict[str, Any] = {"product_id": OLD_HALF, "status": "SHIPPED"}
    found: list[int] = []
    sizes: list[int] = []
    before = None
    while len(found) < 2 * PAGE:
        page = await explained.store.orders(**asked, before=before, limit=PAGE)
        found += [row.position for row in page.rows]
        sizes.append(len(page.rows))
        before = page.end
        assert before is not None

    assert sizes[:30] == [0] * 30
    all_of_them = """
        select position from orders as o
        where status = $2 and exists (select from order_items where order_id = o.id and product_id = $1)
        order by position desc
        limit $3
    """
    rows = await explained.store._pool.fetch(all_of_them, *asked.values(), len(found))
    assert found == [row["position"] for row in rows]


async def test_the_last_page_of_a_products_orders_says_that_it_is_the_last(explained: Explained):
    for product_id in (EVERY, OLD_HALF, TWO_THOUSANDTH, FEW, NONE):
        page = await explained.store.orders(product_id=product_id, before=80, limit=PAGE)
        assert page.end is None
