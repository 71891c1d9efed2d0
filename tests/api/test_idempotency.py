"""The same Idempotency-Key: one effect and the same answer, for ever."""

import asyncio
from uuid import UUID, uuid4

import pytest

from domain.order import OrderCompleted, OrderDeleted
from eventstore.pool import open_pool
from over_http import problem, violations
from projections.handlers.aggregate_deletion import Purge


@pytest.fixture
def key():
    return {"Idempotency-Key": f"key-{uuid4()}"}


def same(one, other):
    """Whether two answers say the same: their bodies, and what a program goes on with."""
    ours = ("etag", "location", "content-type")
    said = [(each.status_code, each.content, *(each.headers.get(name) for name in ours)) for each in (one, other)]
    return said[0] == said[1]


async def test_an_order_created_twice_under_one_key_is_one_order(story, key):
    first = await story.waybill.post("/orders", json=story.body, headers=key)
    again = await story.waybill.post("/orders", json=story.body, headers=key)

    assert first.status_code == 201
    assert same(first, again)
    assert await story.new_events() == [story.created]


async def test_without_an_id_the_key_names_the_order(story, key):
    body = {name: value for name, value in story.body.items() if name != "id"}
    first = await story.waybill.post("/orders", json=body, headers=key)
    again = await story.waybill.post("/orders", json=body, headers=key)

    assert same(first, again)
    story.order_id = UUID(first.json()["id"])
    assert await story.new_events() == [story.created]


async def test_a_completion_is_answered_as_the_first_time_though_its_product_was_blocked_since(story, key):
    product = str(uuid4())
    body = story.body | {"items": [story.body["items"][0] | {"product_id": product}]}
    await story.waybill.post("/orders", json=body)
    first = await story.waybill.post(f"{story.path}/complete", headers=key)
    assert first.status_code == 200
    assert (await story.waybill.put(f"/blocked-products/{product}")).status_code == 204
    assert same(first, await story.waybill.post(f"{story.path}/complete", headers=key))

    # Who comes with another key, and another order, comes too late.
    problem(await story.waybill.post(f"{story.path}/complete"), 409, "order-already-completed")
    later = body | {"id": str(uuid4()), "order_number": str(uuid4())}
    await story.waybill.post("/orders", json=later)
    problem(await story.waybill.post(f"/orders/{later['id']}/complete"), 409, "products-blocked")


async def test_each_step_of_an_order_is_answered_as_the_first_time_at_any_time(story):
    steps = [
        ("POST", "/orders", story.body),
        ("POST", f"{story.path}/items", story.body["items"][0]),
        ("POST", f"{story.path}/complete", None),
    ]
    keys = [{"Idempotency-Key": str(uuid4())} for _ in range(4)]
    first = [
        await story.waybill.request(*step[:2], json=step[2], headers=key)
        for step, key in zip(steps, keys, strict=False)
    ]
    shipment = first[-1].json()["shipment_id"]
    steps.append(("POST", f"/shipments/{shipment}/complete", None))
    first.append(await story.waybill.post(f"/shipments/{shipment}/complete", headers=keys[3]))
    head = await story.store.stream_version("$all")

    again = [
        await story.waybill.request(*step[:2], json=step[2], headers=key) for step, key in zip(steps, keys, strict=True)
    ]
    assert [answer.status_code for answer in first] == [201, 200, 200, 200]
    assert all(map(same, first, again))
    assert await story.store.stream_version("$all") == head
    assert (await story.waybill.get(story.path)).json()["status"] == "SHIPPED"


async def test_a_deletion_is_answered_as_the_first_time(story, key):
    await story.given(story.created)
    first = await story.waybill.delete(story.path, headers=key)
    again = await story.waybill.delete(story.path, headers=key)
    assert first.status_code == 204
    assert same(first, again)
    assert await story.new_events() == [OrderDeleted(id=story.order_id)]


async def test_a_key_is_answered_also_after_its_order_was_removed_for_good(story, key, waybill_settings):
    removal = {"Idempotency-Key": f"key-{uuid4()}"}
    await story.waybill.post("/orders", json=story.body, headers=key)
    await story.waybill.delete(story.path, headers=removal)
    *_, deleted = await story.store.read_stream(str(story.order_id))
    async with open_pool(waybill_settings.read_store_url, 1) as views:
        assert await Purge(story.store, views)._purge(deleted) is None
    assert await story.store.stream_info(str(story.order_id)) is None

    problem(await story.waybill.post("/orders", json=story.body, headers=key), 409, "order-deleted")
    problem(await story.waybill.delete(story.path, headers=removal), 409, "order-deleted")
    other = story.body | {"business_partner": "toms@northwind.example"}
    problem(await story.waybill.post("/orders", json=other, headers=key), 422, "idempotency-key-reused")
    assert await story.new_events() == []
    # Who asks without a key, or with a new one, asks for something new.
    problem(await story.waybill.delete(story.path, headers={"Idempotency-Key": str(uuid4())}), 404, "order-not-found")
    assert (await story.waybill.post("/orders", json=story.body)).status_code == 201


async def test_a_refusal_is_kept_too(story, key):
    await story.given(story.created, OrderCompleted(id=story.order_id))
    first = await story.waybill.post(f"{story.path}/complete", headers=key)
    again = await story.waybill.post(f"{story.path}/complete", headers=key)
    problem(first, 409, "order-already-completed")
    assert same(first, again)


async def test_a_stale_precondition_is_kept_too(story, key):
    await story.given(story.created)
    headers = {**key, "If-Match": '"7"'}
    first = await story.waybill.post(f"{story.path}/complete", headers=headers)
    again = await story.waybill.post(f"{story.path}/complete", headers=headers)
    problem(first, 412, "precondition-failed")
    assert same(first, again)


async def test_the_same_key_with_another_order_is_refused(story, key):
    await story.waybill.post("/orders", json=story.body, headers=key)
    other = story.body | {"business_partner": "toms@northwind.example"}
    problem(await story.waybill.post("/orders", json=other, headers=key), 422, "idempotency-key-reused")
    problem(await story.waybill.post(f"{story.path}/complete", headers=key), 422, "idempotency-key-reused")
    problem(await story.waybill.delete(story.path, headers=key), 422, "idempotency-key-reused")
    assert await story.new_events() == [story.created]


async def test_a_number_may_be_written_in_another_way(story, key):
    json = {"Content-Type": "application/json"}
    body = (
        '{{"id": "{id}", "order_number": "{number}", "business_partner": "vinet@northwind.example", '
        '"items": [{{"product_id": "2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01", "quantity": {quantity}, "uom": "KG"}}]}}'
    )
    answers = [
        await story.waybill.post(
            "/orders",
            content=body.format(id=story.order_id, number=story.number, quantity=quantity),
            headers=key | json,
        )
        for quantity in ("1.5", "1.50", "15e-1")
    ]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert same(answers[0], answers[1])
    assert same(answers[0], answers[2])


async def test_what_broke_the_rules_may_be_mended_under_the_same_key(story, key):
    broken = await story.waybill.post("/orders", json=story.body | {"items": []}, headers=key)
    assert violations(broken)
    assert (await story.waybill.post("/orders", json=story.body, headers=key)).status_code == 201


async def test_requests_that_race_under_one_key_get_one_answer(story, key):
    answers = await asyncio.gather(*(story.waybill.post("/orders", json=story.body, headers=key) for _ in range(8)))
    assert [answer.status_code for answer in answers] == [201] * 8
    assert all(same(answers[0], answer) for answer in answers)
    assert await story.new_events() == [story.created]


async def test_orders_that_race_for_one_number_leave_one_order(story):
    bodies = [story.body | {"id": str(uuid4())} for _ in range(16)]
    answers = await asyncio.gather(*(story.waybill.post("/orders", json=body) for body in bodies))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 15
    assert {answer.json()["code"] for answer in answers if answer.status_code == 409} == {"order-number-taken"}


@pytest.mark.parametrize("bad", ["", "x" * 256, "two words", "na\u00efve".encode("latin-1")])
async def test_a_key_is_made_of_visible_characters(story, bad):
    answer = await story.waybill.post(
        "/orders",
        json=story.body,
        headers=[(b"Idempotency-Key", bad)] if isinstance(bad, bytes) else {"Idempotency-Key": bad},
    )
    problem(answer, 400, "malformed-request")
    assert await story.new_events() == []
