"""If-Match and If-None-Match: what a caller has seen decides what is done, or sent."""

from uuid import uuid4

import pytest

from api.preconditions import entity_tag, expected_versions, is_current
from api.problems import MalformedRequest
from domain.order import OrderCompleted, OrderItemAdded
from over_http import problem


def test_a_tag_has_the_version_and_that_of_the_shipment():
    assert entity_tag(7) == '"7"'
    assert entity_tag(7, 2) == '"7.2"'


@pytest.mark.parametrize(
    ("if_match", "versions"),
    [
        (None, "any"),
        ("*", "any"),
        ('"7"', {7}),
        ('"7.2"', {7}),
        ('"7", "8.1" ,"9"', {7, 8, 9}),
        ('"7",, "8",', {7, 8}),
        ('W/"7"', set()),
        ('W/"7", "8"', {8}),
        ('"abc"', set()),
        ('"a,b", "7"', {7}),
        ('""', set()),
        ('"0"', set()),
        ('"07"', set()),
        ('"7.0"', set()),
        ('"99999999999999999999"', set()),
    ],
)
def test_if_match_names_versions(if_match, versions):
    assert expected_versions(if_match) == versions


@pytest.mark.parametrize("if_match", ["", "7", '"7', '7"', '"7" "8"', 'w/"7"', '"7", *', "'7'", '"\n"'])
def test_what_is_no_list_of_tags_is_malformed(if_match):
    with pytest.raises(MalformedRequest):
        expected_versions(if_match)


@pytest.mark.parametrize(
    ("if_none_match", "current"),
    [
        (None, False),
        ("*", True),
        ('"7"', True),
        ('W/"7"', True),
        ('"6", "7"', True),
        ('"6"', False),
        ('"7.1"', False),
    ],
)
def test_if_none_match_says_what_the_caller_has(if_none_match, current):
    assert is_current(if_none_match, '"7"') is current


@pytest.mark.parametrize("malformed", ["", "7", '"7', '"7" "8"', 'w/"7"', "*, *", '"a b"'])
async def test_a_malformed_precondition_is_told_and_nothing_is_done(story, malformed):
    await story.waybill.post("/orders", json=story.body)
    problem(await story.waybill.get(story.path, headers={"If-None-Match": malformed}), 400, "malformed-request")
    problem(await story.waybill.delete(story.path, headers={"If-Match": malformed}), 400, "malformed-request")
    assert await story.new_events() == [story.created]


async def test_tags_on_several_lines_are_one_list(story):
    await story.given(story.created)
    lines = [("If-Match", '"7"'), ("If-Match", '"1"')]
    completed = await story.waybill.post(f"{story.path}/complete", headers=lines)
    assert completed.status_code == 200


async def test_an_answer_under_a_key_does_not_change_with_the_precondition(story):
    """The key has named the request, precondition and all: that the order has moved since is its own doing."""
    await story.given(story.created)
    headers = {"Idempotency-Key": str(uuid4()), "If-Match": '"1"'}
    first = await story.waybill.post(f"{story.path}/complete", headers=headers)
    again = await story.waybill.post(f"{story.path}/complete", headers=headers)
    assert (first.status_code, first.content) == (200, again.content)


@pytest.mark.parametrize("prefer", ["respond-async", "wait=1, respond-async", "RESPOND-ASYNC; x=1", "a,respond-async"])
async def test_who_does_not_want_to_wait_is_told_where_to_look(story, prefer):
    accepted = await story.waybill.post("/orders", json=story.body, headers={"Prefer": prefer})
    assert (accepted.status_code, accepted.headers["preference-applied"]) == (202, "respond-async")
    assert accepted.headers["location"] == story.path


@pytest.mark.parametrize("prefer", ["", "wait=10", "return=minimal", "no-respond-async", "respond-asynchronously"])
async def test_other_preferences_change_nothing(story, prefer):
    created = await story.waybill.post("/orders", json=story.body, headers={"Prefer": prefer})
    assert created.status_code == 201
    assert "preference-applied" not in created.headers


@pytest.fixture
async def at_version_2(story):
    item = OrderItemAdded.model_validate({"id": story.order_id, **story.body["items"][0]})
    return await story.given(story.created, item)


@pytest.mark.parametrize("tag", ['"2"', '"2.1"', '"1", "2"', "*"])
async def test_a_command_is_done_at_the_version_that_it_names(at_version_2, tag):
    story = at_version_2
    answer = await story.waybill.post(f"{story.path}/complete", headers={"If-Match": tag})
    assert answer.status_code == 200
    assert await story.new_events() == [OrderCompleted(id=story.order_id)]


@pytest.mark.parametrize("tag", ['"1"', '"3"', 'W/"2"', '"two"', '"1", "3"'])
async def test_a_command_is_not_done_at_another_version(at_version_2, tag):
    story = at_version_2
    headers = {"If-Match": tag}
    item = story.body["items"][0]
    for request in (
        story.waybill.post(f"{story.path}/complete", headers=headers),
        story.waybill.post(f"{story.path}/items", json=item, headers=headers),
        story.waybill.delete(story.path, headers=headers),
    ):
        problem(await request, 412, "precondition-failed")
    assert await story.new_events() == []


async def test_the_version_that_it_is_at_is_told(at_version_2):
    story = at_version_2
    answer = await story.waybill.delete(story.path, headers={"If-Match": '"1"'})
    assert problem(answer, 412, "precondition-failed")["version"] == 2


async def test_a_malformed_precondition_is_told(at_version_2):
    story = at_version_2
    problem(await story.waybill.delete(story.path, headers={"If-Match": "2"}), 400, "malformed-request")
    assert await story.new_events() == []


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', "*", '"1", "2"'])
async def test_an_order_that_never_was_is_at_no_version(story, tag):
    problem(await story.waybill.delete(story.path, headers={"If-Match": tag}), 404, "order-not-found")


async def test_an_order_is_sent_only_if_it_has_changed(story):
    tag = (await story.waybill.post("/orders", json=story.body)).headers["etag"]

    unchanged = await story.waybill.get(story.path, headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)

    completed = await story.waybill.post(f"{story.path}/complete")
    changed = await story.waybill.get(story.path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] == completed.headers["etag"]
    shipped = await story.waybill.post(f"/shipments/{completed.json()['shipment_id']}/complete")
    again = await story.waybill.get(story.path, headers={"If-None-Match": completed.headers["etag"]})
    assert (again.status_code, again.json()["status"]) == (200, "SHIPPED")
    path = f"/shipments/{completed.json()['shipment_id']}"
    same = await story.waybill.get(path, headers={"If-None-Match": shipped.headers["etag"]})
    assert same.status_code == 304
