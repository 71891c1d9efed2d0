"""The list of products that must not be sold."""

from uuid import uuid4

import pytest

from eventstore.postgres import PostgresStore
from over_http import problem, violations


async def blocked(waybill):
    return {product["product_id"] for product in (await waybill.get("/blocked-products")).json()["items"]}


@pytest.fixture
def product():
    return str(uuid4())


async def test_a_new_database_blocks_one_product(event_store_url):
    async with PostgresStore.open(event_store_url, 1) as store:
        [product] = await store.blocked_products()
    assert str(product.product_id) == "55e76be0-b83e-4b3c-addd-f3d9e8835be2"


async def test_a_product_is_blocked_and_sold_again(waybill, product):
    path = f"/blocked-products/{product}"
    for _ in range(2):
        answer = await waybill.put(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert product in await blocked(waybill)
    for _ in range(2):
        answer = await waybill.delete(path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert product not in await blocked(waybill)


async def test_an_order_with_a_product_that_is_blocked_now_is_not_completed(story):
    await story.waybill.post("/orders", json=story.body)
    product = story.body["items"][0]["product_id"]
    await story.waybill.put(f"/blocked-products/{product}")
    try:
        answer = await story.waybill.post(f"{story.path}/complete")
        assert problem(answer, 409, "products-blocked")["product_ids"] == [product]
    finally:
        await story.waybill.delete(f"/blocked-products/{product}")
    assert (await story.waybill.post(f"{story.path}/complete")).status_code == 200


async def test_a_product_has_a_uuid(waybill):
    assert violations(await waybill.put("/blocked-products/chai")) == [("/product_id", "must be a valid UUID string")]
    assert violations(await waybill.delete("/blocked-products/chai")) == [
        ("/product_id", "must be a valid UUID string")
    ]


async def test_a_repeated_block_does_not_undo_what_was_decided_since(waybill, product):
    path, key = f"/blocked-products/{product}", {"Idempotency-Key": str(uuid4())}
    assert (await waybill.put(path, headers=key)).status_code == 204
    await waybill.delete(path)
    assert (await waybill.put(path, headers=key)).status_code == 204
    assert product not in await blocked(waybill)


async def test_a_key_belongs_to_one_write(waybill, product):
    key = {"Idempotency-Key": str(uuid4())}
    await waybill.put(f"/blocked-products/{product}", headers=key)
    problem(await waybill.put(f"/blocked-products/{uuid4()}", headers=key), 422, "idempotency-key-reused")
    problem(await waybill.delete(f"/blocked-products/{product}", headers=key), 422, "idempotency-key-reused")
    assert product in await blocked(waybill)


async def test_the_key_of_an_order_blocks_no_product(story):
    key = {"Idempotency-Key": str(uuid4())}
    await story.waybill.post("/orders", json=story.body, headers=key)
    product = str(uuid4())
    answer = await story.waybill.put(f"/blocked-products/{product}", headers=key)
    problem(answer, 422, "idempotency-key-reused")
    assert product not in await blocked(story.waybill)
