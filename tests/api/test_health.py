"""What operators ask."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from api import problems
from eventstore.store import Append, NewEvent
from settings import Settings
from support import eventually


@pytest.fixture
async def lonely_rows(lonely_settings: Settings) -> AsyncGenerator[Callable[[str], Awaitable[object]]]:
    """Changes the tables of the gateway that no worker works for, until the end of the test."""
    connection = await asyncpg.connect(lonely_settings.read_store_url)
    undo: list[str] = []

    async def change(statement: str) -> None:
        undo.append(_UNDO[statement.split()[1]])
        await connection.execute(statement)

    yield change
    for statement in undo:
        await connection.execute(statement)
    await connection.close()


_UNDO = {
    "waybill.projections": "update waybill.projections set stage = 'live', version = 1 where projection = 'orders'",
    "table": "alter table orders rename column state to status",
}


async def test_a_gateway_that_runs_is_alive(lonely):
    answer = await lonely.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_a_gateway_that_reaches_all_it_needs_is_ready(waybill):
    answer = await waybill.get("/readyz")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ok", "checks": {"event_store": "ok", "read_store": "ok", "temporal": "ok"}},
    )


async def test_a_gateway_says_what_it_lacks_and_not_where_it_was_looked_for(lonely):
    answer = await lonely.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "unavailable",
        "checks": {"event_store": "ok", "read_store": "ok", "temporal": "unavailable"},
    }


async def test_projections_are_shown_with_their_lag(story):
    position = (await story.waybill.post("/orders", json=story.body)).json()["position"]
    told = (await story.waybill.get("/projections")).json()
    assert [each["name"] for each in told["items"]] == ["orders", "shipments"]
    for each in told["items"]:
        assert (each["version"], each["stage"], each["state"], each["parked"]) == (1, "live", "running", 0)
        assert each["position"] >= position
        assert each["lag"] >= 0
        assert 0 < each["progress"] <= 1


async def test_a_build_that_nobody_runs_yet_is_shown_as_waiting(lonely, lonely_rows):
    await lonely_rows("update waybill.projections set stage = 'next' where projection = 'orders'")
    (told,) = [each for each in (await lonely.get("/projections")).json()["items"] if each["name"] == "orders"]
    assert (told["stage"], told["state"], told["owner"]) == ("next", "waiting", None)


async def test_a_gateway_whose_version_has_no_rows_yet_is_not_ready_and_says_of_what(lonely, lonely_rows):
    await lonely_rows("update waybill.projections set version = 2 where projection = 'orders'")
    answer = await lonely.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"] | {"temporal": None} == {
        "event_store": "ok",
        "read_store": "ok",
        "temporal": None,
        "orders": "building",
    }


async def test_rows_of_another_shape_are_no_fault_of_the_gateway(lonely, lonely_rows):
    await lonely_rows("alter table orders rename column status to state")
    answer = await lonely.get("/orders")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


async def test_parked_events_degrade_a_gateway_and_take_nothing_from_its_readiness(story):
    broken = NewEvent(uuid4(), "Order.OrderItemAdded", b"broken")
    appended = await story.store.append(Append(str(uuid4()), "any", [broken]))

    async def is_degraded() -> bool:
        answer = await story.waybill.get("/readyz")
        assert answer.status_code == 200
        return (answer.json()["status"], answer.json()["checks"].get("orders")) == ("degraded", "parked")

    try:
        await eventually(is_degraded)
        (orders, _) = (await story.waybill.get("/projections")).json()["items"]
        assert orders["parked"] >= 1
        # All the others live on.
        assert (await story.waybill.post("/orders", json=story.body)).status_code == 201
        assert (await story.waybill.post(f"{story.path}/complete")).status_code == 200
        assert (await story.waybill.get(story.path)).json()["status"] == "COMPLETED"
    finally:
        (event,) = await story.store.read_all(after=appended.first_position - 1, limit=1)
        await story.waybill.post(f"/parked/orders/{event.stream_id}/discard")


async def test_requests_are_counted_by_route(waybill):
    await waybill.get("/orders/2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01")
    await waybill.get("/nowhere/at/all")
    answer = await waybill.get("/metrics")
    assert answer.status_code == 200
    assert 'waybill_http_requests_total{method="GET",route="/orders/{order_id}",status="404"}' in answer.text
    assert 'waybill_http_requests_total{method="GET",route="none",status="404"}' in answer.text
    assert 'waybill_http_request_seconds_count{method="GET",route="/orders/{order_id}"}' in answer.text


async def test_every_answer_has_the_id_of_its_request(waybill):
    given = await waybill.get("/livez", headers={"X-Request-Id": "order-desk-17"})
    assert given.headers["x-request-id"] == "order-desk-17"
    ids = {(await waybill.get(path)).headers["x-request-id"] for path in ("/livez", "/nowhere", "/orders?limit=0")}
    assert len(ids) == 3


@pytest.mark.parametrize("bad", ["", "x" * 65, "two words"])
async def test_an_id_that_would_spoil_the_log_is_replaced(waybill, bad):
    answer = await waybill.get("/livez", headers={"X-Request-Id": bad})
    assert answer.headers["x-request-id"] != bad


async def test_a_fault_is_a_clean_problem_with_an_id_that_the_log_has(waybill, monkeypatch):
    async def fail(*_, **__):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("projections.queries.ReadStore.order", fail)
    with capture_logs() as log:
        answer = await waybill.get("/orders/2f1c7a55-91a4-4b0c-8f0e-6b0f9f1f6a01")

    assert answer.status_code == 500
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert answer.json()["code"] == "internal-error"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert "secret" not in answer.text
    assert [entry["request_id"] for entry in log if entry["event"] == "request.failed"] == [answer.json()["request_id"]]


async def test_unknown_paths_and_methods_are_problems(waybill):
    unknown = await waybill.get("/nowhere")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not-found")
    wrong = await waybill.patch("/orders")
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method-not-allowed")
    assert wrong.headers["allow"]
