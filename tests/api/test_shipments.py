"""Shipments over HTTP: given events, when a request, then an answer and new events."""

from uuid import uuid4

import pytest

from domain.ids import shipment_id
from domain.order import OrderCompleted
from domain.shipment import ShipmentCompleted, ShipmentCreated
from over_http import problem


@pytest.fixture
async def shipment(story):
    """A shipment that waits to go out."""
    shipment = shipment_id(story.order_id)
    await story.given(
        story.created, OrderCompleted(id=story.order_id), ShipmentCreated(id=shipment, order_id=story.order_id)
    )
    return shipment


async def test_a_shipment_goes_out(story, shipment):
    answer = await story.waybill.post(f"/shipments/{shipment}/complete")

    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    body = answer.json()
    assert body.pop("position") > 0
    assert body == {
        "id": str(shipment),
        "order_id": str(story.order_id),
        "status": "COMPLETED",
        "version": 2,
        "workflow_id": f"order-{story.order_id}",
        "workflow_url": f"http://127.0.0.1:8233/namespaces/default/workflows/order-{story.order_id}",
    }
    assert await story.new_events(shipment) == [ShipmentCompleted(id=shipment)]


async def test_the_order_of_a_shipment_that_has_gone_out_is_shipped(story, shipment):
    await story.waybill.post(f"/shipments/{shipment}/complete")

    order = await story.waybill.get(story.path)
    assert order.json()["status"] == "SHIPPED"
    assert order.json()["shipment"] == {"id": str(shipment), "status": "COMPLETED", "version": 2}
    assert order.headers["etag"] == '"2.2"'
    shown = await story.waybill.get(f"/shipments/{shipment}")
    assert shown.headers["etag"] == '"2"'
    assert (
        shown.json().items()
        >= {"id": str(shipment), "order_id": str(story.order_id), "status": "COMPLETED", "version": 2}.items()
    )


async def test_a_shipment_goes_out_once(story, shipment):
    await story.waybill.post(f"/shipments/{shipment}/complete")
    again = await story.waybill.post(f"/shipments/{shipment}/complete")

    assert problem(again, 409, "shipment-already-completed")["detail"] == "Shipment already completed"
    assert await story.new_events(shipment) == [ShipmentCompleted(id=shipment)]


async def test_a_shipment_that_never_was_is_not_found(story):
    for name in (uuid4(), "box-1"):
        problem(await story.waybill.post(f"/shipments/{name}/complete"), 404, "shipment-not-found")
        problem(await story.waybill.get(f"/shipments/{name}"), 404, "shipment-not-found")


async def test_an_order_is_no_shipment(story):
    await story.given(story.created)
    problem(await story.waybill.post(f"/shipments/{story.order_id}/complete"), 404, "shipment-not-found")


async def test_a_shipment_is_found_by_its_order(story):
    await story.waybill.post("/orders", json=story.body)
    completed = await story.waybill.post(f"{story.path}/complete")

    answer = await story.waybill.get("/shipments", params={"order_id": str(story.order_id), "status": "OPEN"})
    assert [shipment["id"] for shipment in answer.json()["items"]] == [completed.json()["shipment_id"]]
    gone = await story.waybill.get("/shipments", params={"order_id": str(story.order_id), "status": "COMPLETED"})
    assert gone.json() == {"items": [], "next": None}


async def test_only_the_version_that_was_named_goes_out(story, shipment):
    path = f"/shipments/{shipment}/complete"
    stale = await story.waybill.post(path, headers={"If-Match": '"2"'})
    assert problem(stale, 412, "precondition-failed")["version"] == 1
    assert await story.new_events(shipment) == []
    assert (await story.waybill.post(path, headers={"If-Match": '"1"'})).status_code == 200
