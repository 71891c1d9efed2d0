"""Commands on orders over HTTP: given events, when a request, then an answer and new events."""

from decimal import Decimal
from uuid import UUID, uuid4

import orjson

from api.schemas import PRODUCT_ID, Order
from domain.ids import shipment_id
from domain.order import OrderCompleted, OrderDeleted, OrderItemAdded
from domain.shipment import ShipmentCreated
from over_http import problem

BLOCKED = UUID("55e76be0-b83e-4b3c-addd-f3d9e8835be2")


async def test_an_order_is_created(story):
    answer = await story.waybill.post("/orders", json=story.body)

    assert answer.status_code == 201
    assert answer.headers["location"] == story.path
    assert answer.headers["etag"] == '"1"'
    body = answer.json()
    assert body.pop("position") > 0
    assert body == {
        "id": str(story.order_id),
        "order_number": story.number,
        "status": "OPEN",
        "version": 1,
        "workflow_id": f"order-{story.order_id}",
        "workflow_url": f"http://127.0.0.1:8233/namespaces/default/workflows/order-{story.order_id}",
    }
    assert await story.new_events() == [story.created]


async def test_an_order_whose_id_nobody_chose_gets_one(story):
    body = {name: value for name, value in story.body.items() if name != "id"}
    answer = await story.waybill.post("/orders", json=body)

    assert answer.status_code == 201
    story.order_id = UUID(answer.json()["id"])
    assert answer.headers["location"] == story.path
    assert await story.new_events() == [story.created]


async def test_an_order_is_shown_in_the_documents_form_however_it_is_asked_for(story):
    items = [story.body["items"][0] | {"quantity": quantity} for quantity in (3, 0.001, 999999999.999, 2.5e2)]
    await story.waybill.post("/orders", json=story.body | {"items": items})
    await story.waybill.post(f"{story.path}/complete")

    shown = await story.waybill.get(story.path)
    assert Order.model_validate_json(shown.content).model_dump_json() == shown.text
    # A request that says more than its path takes another way.
    for said in ({"params": {"min_position": 1}}, {"headers": {"If-None-Match": '"1"'}}, {"params": {"version": 2}}):
        other = await story.waybill.get(story.path, **said)
        assert other.content == shown.content
        del other.headers["x-request-id"]
        assert dict(shown.headers) == {"x-request-id": shown.headers["x-request-id"], **other.headers}


async def test_what_was_written_is_read_at_once(story):
    await story.waybill.post("/orders", json=story.body)

    answer = await story.waybill.get(story.path)
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("created_at") == body.pop("updated_at")
    assert body == {
        "id": str(story.order_id),
        "order_number": story.number,
        "business_partner": "vinet@northwind.example",
        "status": "OPEN",
        "version": 1,
        "items": story.body["items"],
        "shipment": None,
        "workflow_id": f"order-{story.order_id}",
        "workflow_url": f"http://127.0.0.1:8233/namespaces/default/workflows/order-{story.order_id}",
    }


async def test_a_quantity_is_kept_to_its_last_digit(story):
    body = story.body | {"items": [{"product_id": PRODUCT_ID, "quantity": 999999999.999, "uom": "MT"}]}
    await story.waybill.post("/orders", json=body)

    [created] = await story.new_events()
    assert created.items[0].quantity == Decimal("999999999.999")
    assert '"quantity":999999999.999,' in (await story.waybill.get(story.path)).text


async def test_an_order_that_exists_is_not_created_again(story):
    await story.given(story.created)
    answer = await story.waybill.post("/orders", json=story.body)

    assert problem(answer, 409, "order-already-created")["detail"] == "Order already created"
    assert await story.new_events() == []


async def test_an_order_number_has_one_order(story):
    await story.given(story.created)
    other = story.body | {"id": str(uuid4())}
    answer = await story.waybill.post("/orders", json=other)

    assert problem(answer, 409, "order-number-taken")["detail"] == "Order number already exist"
    assert await story.new_events(UUID(other["id"])) == []


async def test_an_item_is_added_to_an_open_order(story):
    await story.given(story.created)
    item = {"product_id": str(uuid4()), "quantity": 2, "uom": "MT"}
    answer = await story.waybill.post(f"{story.path}/items", json=item)

    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2"'
    assert {**answer.json(), "position": 0} == {
        "id": str(story.order_id),
        "order_number": story.number,
        "status": "OPEN",
        "version": 2,
        "position": 0,
        "workflow_id": f"order-{story.order_id}",
        "workflow_url": f"http://127.0.0.1:8233/namespaces/default/workflows/order-{story.order_id}",
    }
    assert await story.new_events() == [OrderItemAdded.model_validate({"id": story.order_id, **item})]
    assert (await story.waybill.get(story.path)).json()["items"] == [*story.body["items"], item]


async def test_a_completed_order_becomes_a_shipment(story):
    await story.given(story.created)
    answer = await story.waybill.post(f"{story.path}/complete")

    shipment = shipment_id(story.order_id)
    assert answer.status_code == 200
    assert answer.headers["etag"] == '"2.1"'
    assert answer.json().items() >= {"status": "COMPLETED", "version": 2, "shipment_id": str(shipment)}.items()
    assert await story.new_events() == [OrderCompleted(id=story.order_id)]
    assert await story.new_events(shipment) == [ShipmentCreated(id=shipment, order_id=story.order_id)]
    shown = (await story.waybill.get(story.path)).json()
    assert (shown["status"], shown["shipment"]) == (
        "COMPLETED",
        {"id": str(shipment), "status": "OPEN", "version": 1},
    )


async def test_an_order_with_a_blocked_product_is_not_completed(story):
    blocked = OrderItemAdded(id=story.order_id, product_id=BLOCKED, quantity=Decimal(1), uom="KG")
    await story.given(story.created, blocked)
    answer = await story.waybill.post(f"{story.path}/complete")

    body = problem(answer, 409, "products-blocked")
    assert body["detail"] == f"Order contains blocked products: {BLOCKED}"
    assert body["product_ids"] == [str(BLOCKED)]
    assert await story.new_events() == []


async def test_an_open_order_is_deleted_and_its_number_is_free_again(story):
    await story.given(story.created)
    answer = await story.waybill.delete(story.path)

    assert (answer.status_code, answer.content) == (204, b"")
    assert await story.new_events() == [OrderDeleted(id=story.order_id)]
    problem(await story.waybill.get(story.path), 404, "order-not-found")
    again = await story.waybill.post("/orders", json=story.body | {"id": str(uuid4())})
    assert again.status_code == 201


async def test_a_completed_order_is_final(story):
    await story.given(story.created, OrderCompleted(id=story.order_id))
    requests = [
        story.waybill.post(f"{story.path}/items", json=story.body["items"][0]),
        story.waybill.post(f"{story.path}/complete"),
        story.waybill.delete(story.path),
    ]
    for request in requests:
        assert problem(await request, 409, "order-already-completed")["detail"] == "Order already completed"
    assert await story.new_events() == []


async def test_a_deleted_order_is_final(story):
    await story.given(story.created, OrderDeleted(id=story.order_id))
    problem(await story.waybill.post(f"{story.path}/items", json=story.body["items"][0]), 409, "order-deleted")
    problem(await story.waybill.post(f"{story.path}/complete"), 409, "order-deleted")
    problem(await story.waybill.delete(story.path), 409, "order-deleted")
    assert await story.new_events() == []


async def test_an_order_that_never_was_is_not_found_and_gets_no_run(story, temporal):
    item = story.body["items"][0]
    for request in (
        story.waybill.post(f"{story.path}/items", json=item),
        story.waybill.post(f"{story.path}/complete"),
        story.waybill.delete(story.path),
        story.waybill.get(story.path),
        story.waybill.get(f"{story.path}/events"),
        story.waybill.get(f"{story.path}?version=1"),
        story.waybill.get(f"{story.path}?as_of=2100-01-01T00:00:00Z"),
    ):
        assert problem(await request, 404, "order-not-found")["detail"] == "Order not found"
    assert await story.new_events() == []
    runs = [run async for run in temporal.list_workflows(f'WorkflowId = "order-{story.order_id}"')]
    assert runs == []


async def test_what_is_no_uuid_is_the_name_of_no_order(waybill):
    for name in ("SO-10248", "2f1c7a5591a44b0c8f0e6b0f9f1f6a01", "{2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01}", "%20"):
        problem(await waybill.get(f"/orders/{name}"), 404, "order-not-found")
        problem(await waybill.delete(f"/orders/{name}"), 404, "order-not-found")


async def test_an_id_may_be_written_in_capitals(story):
    await story.given(story.created)
    answer = await story.waybill.post(f"/orders/{str(story.order_id).upper()}/complete")
    assert answer.json()["id"] == str(story.order_id)


async def test_the_stream_of_a_shipment_is_no_order(story):
    shipment = shipment_id(story.order_id)
    await story.given(
        story.created,
        OrderCompleted(id=story.order_id),
        ShipmentCreated(id=shipment, order_id=story.order_id),
    )
    problem(await story.waybill.post(f"/orders/{shipment}/complete"), 404, "order-not-found")


async def test_an_idle_order_is_revived_by_its_next_command(story, temporal):
    await story.waybill.post("/orders", json=story.body)
    await temporal.get_workflow_handle(f"order-{story.order_id}").terminate("as an operator might")

    answer = await story.waybill.post(f"{story.path}/complete")
    assert answer.status_code == 200
    assert await story.new_events() == [story.created, OrderCompleted(id=story.order_id)]


async def test_events_tell_who_did_what(story):
    await story.waybill.post("/orders", json=story.body, headers={"X-Request-Id": "the-request"})
    [recorded] = await story.store.read_stream(str(story.order_id))
    assert recorded.metadata is not None
    for fact in (b'"command":"CreateOrder"', b'"actor":"anonymous"', b'"request_id":"the-request"'):
        assert fact in recorded.metadata
    assert recorded.correlation_id == story.order_id


async def test_the_request_and_its_trace_are_known_to_the_event(story):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    headers = {"X-Request-Id": "desk-17-42", "traceparent": trace}
    created = await story.waybill.post("/orders", json=story.body, headers=headers)
    assert created.headers["x-request-id"] == "desk-17-42"
    await story.waybill.post(f"{story.path}/items", json=story.body["items"][0], headers={"traceparent": "00-nonsense"})
    created, added = [orjson.loads(event.metadata) for event in await story.store.read_stream(str(story.order_id))]
    assert (created["request_id"], created["traceparent"]) == ("desk-17-42", trace)
    assert "traceparent" not in added


async def test_the_shipment_of_an_order_is_known_to_belong_to_the_request_that_completed_it(story):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await story.waybill.post("/orders", json=story.body)
    headers = {"X-Request-Id": "desk-17-43", "traceparent": trace}
    completed = await story.waybill.post(f"{story.path}/complete", headers=headers)
    (created,) = await story.store.read_stream(completed.json()["shipment_id"])
    metadata = orjson.loads(created.metadata)
    assert (metadata["command"], metadata["actor"]) == ("CreateShipment", "waybill")
    assert (metadata["request_id"], metadata["traceparent"]) == ("desk-17-43", trace)
