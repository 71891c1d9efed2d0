"""What operators ask."""

import pytest
from structlog.testing import capture_logs

from api import problems


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
    projections = {each["name"]: each for each in (await story.waybill.get("/projections")).json()["items"]}
    assert projections.keys() == {"orders", "shipments"}
    for each in projections.values():
        assert each["position"] >= position
        assert each["lag"] >= 0


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
