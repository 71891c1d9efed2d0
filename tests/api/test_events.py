"""Events over HTTP: one order's timeline, and the global sequence."""

from domain.ids import shipment_id
from domain.order import OrderCompleted, OrderDeleted
from over_http import violations
from projecting import added


async def test_the_timeline_of_an_order_tells_what_led_to_what(story):
    created = await story.waybill.post("/orders", json=story.body)
    await story.waybill.post(f"{story.path}/complete")

    answer = await story.waybill.get(f"{story.path}/events")
    assert answer.status_code == 200
    first, second = answer.json()["items"]
    assert first.pop("created_at") < second["created_at"]
    assert first.pop("event_id") != first["causation_id"]
    assert first.pop("causation_id")
    assert first == {
        "type": "Order.OrderCreated",
        "stream_id": str(story.order_id),
        "version": 1,
        "position": created.json()["position"],
        "data": story.body,
        "correlation_id": str(story.order_id),
    }
    assert (second["type"], second["version"], second["data"]) == (
        "Order.OrderCompleted",
        2,
        {"id": str(story.order_id)},
    )
    shipped = await story.waybill.get(f"/events?after={second['position']}&type=Shipment.ShipmentCreated")
    [shipment] = [each for each in shipped.json()["items"] if each["causation_id"] == second["event_id"]]
    assert shipment["stream_id"] == str(shipment_id(story.order_id))
    assert shipment["correlation_id"] == str(story.order_id)


async def test_a_deleted_order_has_a_timeline(story):
    await story.given(story.created, OrderDeleted(id=story.order_id))
    answer = await story.waybill.get(f"{story.path}/events")
    assert [event["type"] for event in answer.json()["items"]] == ["Order.OrderCreated", "Order.OrderDeleted"]


async def test_a_timeline_comes_in_pages(story):
    await story.given(story.created, OrderCompleted(id=story.order_id))
    first = await story.waybill.get(f"{story.path}/events?limit=1")
    assert (len(first.json()["items"]), first.json()["next"]) == (1, 1)
    assert first.headers["link"] == f'<{story.path}/events?limit=1&after=1>; rel="next"'
    second = await story.waybill.get(f"{story.path}/events?limit=1&after=1")
    assert (second.json()["items"][0]["version"], second.json()["next"]) == (2, None)
    assert (await story.waybill.get(f"{story.path}/events?after=2")).json() == {"items": [], "next": None}


async def test_the_global_sequence_comes_in_order_and_in_pages(story):
    await story.given(story.created, OrderCompleted(id=story.order_id))
    head = await story.store.stream_version("$all")
    positions: list[int] = []
    following: int | None = 0
    while following is not None:
        page = (await story.waybill.get(f"/events?after={following}&limit=7")).json()
        positions += [event["position"] for event in page["items"]]
        following = page["next"]
    there = [event.position for event in await story.store.read_all(limit=head)]
    assert [position for position in positions if position <= head] == there
    assert there == sorted(set(there))


async def test_the_global_sequence_is_narrowed_to_types(story):
    await story.given(story.created, OrderCompleted(id=story.order_id), OrderDeleted(id=story.order_id))
    wanted = {"Order.OrderCompleted", "Order.OrderDeleted"}
    after = await story.store.stream_version("$all") - 3
    page = await story.waybill.get("/events", params={"after": after, "type": sorted(wanted)})
    found = [event for event in page.json()["items"] if event["stream_id"] == str(story.order_id)]
    assert [event["type"] for event in found] == ["Order.OrderCompleted", "Order.OrderDeleted"]
    assert (await story.waybill.get("/events?type=Order.OrderLost")).json() == {"items": [], "next": None}


async def test_rare_events_are_looked_for_a_stretch_per_page(story, monkeypatch):
    monkeypatch.setattr("api.events.SPAN", 3)
    start = await story.store.stream_version("$all")
    await story.given(story.created, *[added(story.order_id) for _ in range(8)], OrderCompleted(id=story.order_id))
    asked = f"/events?type=Order.OrderCompleted&limit=5&after={start}"
    first = await story.waybill.get(asked)
    assert first.json() == {"items": [], "next": start + 3}
    assert f"after={start + 3}" in first.headers["link"]
    following, found = start, []
    while following is not None:
        page = (await story.waybill.get(f"/events?type=Order.OrderCompleted&limit=5&after={following}")).json()
        found += [event["stream_id"] for event in page["items"]]
        following = page["next"]
    assert str(story.order_id) in found


async def test_a_page_of_events_has_rules(waybill):
    assert [where for where, _ in violations(await waybill.get("/events?after=-1&limit=1001"))] == ["/after", "/limit"]
