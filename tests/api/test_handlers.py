"""A worker runs the event handlers beside everything else."""

from uuid import uuid4

from domain.ids import shipment_id
from domain.order import OrderCompleted
from domain.shipment import ShipmentCreated
from handling import handled_up_to_now
from over_http import problem
from projections.handlers.stream_linker import NAME, ORDERS_STREAM
from support import eventually


async def test_a_worker_owns_the_handlers_and_links_what_happens_to_orders(story):
    await story.waybill.post("/orders", json=story.body)
    await handled_up_to_now(story.store, NAME)
    shown = {each["name"]: each for each in (await story.waybill.get("/handlers")).json()["items"]}
    assert shown.keys() == {"stream_linker", "shipment"}
    assert {each["state"] for each in shown.values()} == {"running"}
    assert shown[NAME]["position"] > 0
    (event,) = await story.store.read_stream(str(story.order_id))
    links = await story.store.read_stream(ORDERS_STREAM, backwards=True, limit=100)
    assert [link.event_id for link in links].count(event.event_id) == 1


async def test_what_is_no_order_has_no_timeline_of_one(story):
    shipment = shipment_id(story.order_id)
    await story.given(
        story.created,
        OrderCompleted(id=story.order_id),
        ShipmentCreated(id=shipment, order_id=story.order_id),
    )

    async def is_linked() -> bool:
        return await story.store.stream_version(ORDERS_STREAM) > 0

    await eventually(is_linked)
    for other in (shipment, ORDERS_STREAM, uuid4()):
        for headers in ({}, {"Accept": "text/event-stream"}):
            problem(await story.waybill.get(f"/orders/{other}/events", headers=headers), 404, "order-not-found")
    assert (await story.waybill.get(f"{story.path}/events?after=1")).json()["items"][0]["version"] == 2
