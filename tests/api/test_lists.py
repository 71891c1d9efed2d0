"""Lists: newest first, in pages that neither skip nor repeat, narrowed by filters."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from api.pagination import decode, encode
from domain.refusals import ValidationFailed
from over_http import problem
from settings import Settings

CHAI, CHANG = uuid4(), uuid4()
AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
async def rows(lonely_settings: Settings):
    """The read store, empty, to be filled by hand."""
    connection = await asyncpg.connect(lonely_settings.read_store_url)
    await connection.execute("truncate orders, order_items, shipments")
    yield connection
    await connection.close()


async def insert_order(rows, position: int, **changes: Any) -> UUID:
    order: dict[str, Any] = {
        "id": uuid4(),
        "order_number": f"SO-{position}",
        "business_partner": "vinet@northwind.example",
        "status": "OPEN",
        "version": 1,
        "shipment_id": None,
        "shipment_version": None,
        "position": position,
        "inserted_at": AT,
        "updated_at": AT,
    } | changes
    product = order.pop("product_id", CHAI)
    await rows.execute("insert into orders values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", *order.values())
    item = (uuid4(), order["id"], 0, product, 1, "KG", AT, AT)
    await rows.execute("insert into order_items values ($1, $2, $3, $4, $5, $6, $7, $8)", *item)
    return order["id"]


async def insert_shipment(rows, position: int, order_id: UUID, status: str = "OPEN") -> UUID:
    row = (uuid4(), order_id, status, 1, position, AT, AT)
    await rows.execute("insert into shipments values ($1, $2, $3, $4, $5, $6, $7)", *row)
    return row[0]


async def walk(client, path: str, limit: int, key: Callable[[dict[str, Any]], Any] = lambda item: item["id"]):
    """What all pages have, by following their links."""
    found: list[Any] = []
    link: str | None = f"{path}{'&' if '?' in path else '?'}limit={limit}"
    while link:
        answer = await client.get(link)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= limit
        found += [key(item) for item in page["items"]]
        relation = answer.headers.get("link")
        assert (relation is None) == (page["next"] is None)
        link = relation.removeprefix("<").removesuffix('>; rel="next"') if relation else None
    return found


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
async def test_pages_have_every_order_once_newest_first(lonely, rows, limit):
    ids = [await insert_order(rows, position) for position in (3, 5, 8, 13, 21, 34, 55)]
    assert await walk(lonely, "/orders", limit) == [str(id_) for id_ in reversed(ids)]


async def test_new_orders_do_not_move_the_pages(lonely, rows):
    ids = [str(await insert_order(rows, position)) for position in (1, 2, 3)]
    first = (await lonely.get("/orders?limit=2")).json()
    await insert_order(rows, 4)
    second = (await lonely.get("/orders", params={"limit": 2, "after": first["next"]})).json()
    assert [order["id"] for order in first["items"] + second["items"]] == ids[::-1]
    assert second["next"] is None


async def test_a_page_has_fifty_orders_unless_it_is_asked_otherwise(lonely, rows):
    for position in range(1, 52):
        await insert_order(rows, position)
    assert len((await lonely.get("/orders")).json()["items"]) == 50


async def test_an_empty_list_has_one_page(lonely, rows):
    answer = await lonely.get("/orders")
    assert answer.json() == {"items": [], "next": None}
    assert "link" not in answer.headers
    assert (await lonely.get("/shipments")).json() == {"items": [], "next": None}


async def test_filters_narrow_the_list(lonely, rows):
    shipped = await insert_order(rows, 1, status="SHIPPED", shipment_id=uuid4(), shipment_version=2, version=2)
    toms = await insert_order(rows, 2, business_partner="toms@northwind.example")
    chang = await insert_order(rows, 3, product_id=CHANG)

    async def found(query: str) -> list[str]:
        return await walk(lonely, f"/orders?{query}", 1)

    assert await found("status=SHIPPED") == [str(shipped)]
    assert await found("business_partner=toms@northwind.example") == [str(toms)]
    assert await found("order_number=SO-3") == [str(chang)]
    assert await found(f"product_id={CHANG}") == [str(chang)]
    assert await found(f"product_id={CHAI}&status=OPEN") == [str(toms)]
    assert await found(f"product_id={CHANG}&status=SHIPPED") == []


async def test_a_link_keeps_the_filters(lonely, rows):
    for position in (1, 2):
        await insert_order(rows, position, order_number="50 % & more/" + str(position))
        await insert_order(rows, position + 10, status="COMPLETED")
    answer = await lonely.get("/orders", params={"status": "OPEN", "limit": 1})
    assert answer.headers["link"].startswith("</orders?status=OPEN&limit=1&after=")


async def test_a_listed_order_is_a_summary(lonely, rows):
    order_id = await insert_order(rows, 1)
    assert (await lonely.get("/orders")).json()["items"] == [
        {
            "id": str(order_id),
            "order_number": "SO-1",
            "business_partner": "vinet@northwind.example",
            "status": "OPEN",
            "version": 1,
            "shipment_id": None,
            "created_at": "2026-01-31T12:00:00Z",
            "updated_at": "2026-01-31T12:00:00Z",
            "workflow_id": f"order-{order_id}",
            "workflow_url": f"http://127.0.0.1:8233/namespaces/default/workflows/order-{order_id}",
        }
    ]


async def test_shipments_are_listed_likewise(lonely, rows):
    orders = [uuid4() for _ in range(3)]
    ids = [await insert_shipment(rows, position, order) for position, order in enumerate(orders, 1)]
    gone = await insert_shipment(rows, 9, uuid4(), "COMPLETED")

    assert await walk(lonely, "/shipments", 2) == [str(id_) for id_ in (gone, *reversed(ids))]
    assert await walk(lonely, "/shipments?status=COMPLETED", 2) == [str(gone)]
    assert await walk(lonely, f"/shipments?order_id={orders[1]}", 2) == [str(ids[1])]


async def test_items_are_shown_in_the_order_in_which_they_were_added(lonely, rows):
    order_id = await insert_order(rows, 1)
    for line in (2, 1, 3):
        item = (uuid4(), order_id, line, CHANG, line, "MT", AT, AT)
        await rows.execute("insert into order_items values ($1, $2, $3, $4, $5, $6, $7, $8)", *item)
    items = (await lonely.get(f"/orders/{order_id}")).json()["items"]
    assert [item["quantity"] for item in items] == [1, 1, 2, 3]


@pytest.mark.parametrize("position", [1, 255, 2**31, 2**63 - 1])
def test_a_cursor_leads_back_to_its_position(position):
    assert decode(encode(position)) == position


@pytest.mark.parametrize(
    "cursor", ["", "1", "=", "AAAAAAAAAAA", "//////////8", "__________8", "AAAAAAAAAAE=", "\u00e4"]
)
def test_a_cursor_that_nobody_gave_is_refused(cursor):
    with pytest.raises(ValidationFailed):
        decode(cursor)


async def test_a_cursor_of_another_list_is_no_secret_door(lonely):
    problem(await lonely.get("/orders?after=1%20or%201=1"), 422, "validation-failed")
