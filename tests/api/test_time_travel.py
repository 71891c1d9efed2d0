"""An order as it was: at one of its versions, or at a moment."""

import pytest

from domain.ids import shipment_id
from over_http import problem, violations


@pytest.fixture
async def life(story):
    """An order that went all the way; what it looked like after each step."""
    await story.waybill.post("/orders", json=story.body)
    steps = [
        f"{story.path}/items",
        f"{story.path}/complete",
        f"/shipments/{shipment_id(story.order_id)}/complete",
    ]
    views = [await story.waybill.get(story.path)]
    for step in steps:
        item = story.body["items"][0] if step.endswith("items") else None
        assert (await story.waybill.post(step, json=item)).status_code == 200
        views.append(await story.waybill.get(story.path))
    return views


def same(one, other):
    return (one.json(), one.headers["etag"]) == (other.json(), other.headers["etag"])


async def test_an_order_is_shown_as_it_was_at_each_version(story, life):
    created, extended, _, shipped = life
    for version, then in enumerate((created, extended, shipped), 1):
        assert same(await story.waybill.get(f"{story.path}?version={version}"), then)


async def test_an_order_is_shown_as_it_was_at_each_moment(story, life):
    for then in life:
        moment = then.json()["updated_at"]
        assert same(await story.waybill.get(story.path, params={"as_of": moment}), then)


async def test_before_it_was_created_there_was_no_order(story, life):
    problem(await story.waybill.get(f"{story.path}?as_of=2001-01-01T00:00:00Z"), 404, "order-not-found")
    problem(await story.waybill.get(f"{story.path}?version=4"), 404, "order-not-found")


async def test_a_deleted_order_is_shown_as_it_was_before(story):
    created = await story.waybill.post("/orders", json=story.body)
    then = await story.waybill.get(story.path)
    await story.waybill.delete(story.path)

    assert same(await story.waybill.get(f"{story.path}?version={created.json()['version']}"), then)
    problem(await story.waybill.get(f"{story.path}?version=2"), 404, "order-not-found")
    problem(await story.waybill.get(f"{story.path}?as_of=2100-01-01T00:00:00Z"), 404, "order-not-found")


async def test_what_was_does_not_change(story, life):
    tag = life[0].headers["etag"]
    answer = await story.waybill.get(f"{story.path}?version=1", headers={"If-None-Match": tag})
    assert answer.status_code == 304


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("version=0", "/version"),
        ("version=two", "/version"),
        ("as_of=yesterday", "/as_of"),
        ("as_of=2026-01-31T12:00:00", "/as_of"),
        ("as_of=2026-01-31T12:00:00Z&version=1", "/as_of"),
    ],
)
async def test_a_moment_and_a_version_have_rules(story, query, pointer):
    assert [where for where, _ in violations(await story.waybill.get(f"{story.path}?{query}"))] == [pointer]
