"""/docs: what it says is complete, and true."""

import hashlib
import json
import re
from base64 import b64encode
from typing import Any

import pytest

from api.problem_pages import HELP
from api.problems import PROBLEMS
from api.schemas import NewOrder
from domain.order import CreateOrder
from domain.refusals import REFUSALS
from domain.validation import parse
from domain.values import Item

WRITES = {"post", "put", "delete"}


@pytest.fixture
async def document(lonely) -> dict[str, Any]:
    return (await lonely.get("/openapi.json")).json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", method, operation


async def test_all_routes_of_the_contract_are_there(document):
    named = {name for name, _, _ in operations(document)}
    assert named == {
        "POST /orders",
        "POST /orders/{order_id}/items",
        "POST /orders/{order_id}/complete",
        "DELETE /orders/{order_id}",
        "GET /orders",
        "GET /orders/{order_id}",
        "GET /orders/{order_id}/events",
        "POST /shipments/{shipment_id}/complete",
        "GET /shipments",
        "GET /shipments/{shipment_id}",
        "GET /blocked-products",
        "PUT /blocked-products/{product_id}",
        "DELETE /blocked-products/{product_id}",
        "GET /events",
        "GET /projections",
        "GET /handlers",
        "GET /parked",
        "POST /parked/{subscriber}/{stream_id}/retry",
        "POST /parked/{subscriber}/{stream_id}/discard",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
        "GET /problems",
        "GET /problems/{code}",
    }


async def test_every_route_has_a_name_a_summary_and_a_description(document):
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(ids)) == len(ids)
    for name, _, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        assert operation["tags"], name


async def test_every_reference_leads_somewhere(document):
    schemas = document["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in schemas


async def test_every_write_takes_a_key(document):
    for name, method, operation in operations(document):
        if method in WRITES:
            headers = {each["name"].lower() for each in operation["parameters"] if each["in"] == "header"}
            assert "idempotency-key" in headers, name


async def test_every_problem_is_shown_by_an_example_of_its_status(document):
    shown: set[str] = set()
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/problem+json", {})
            for code, example in content.get("examples", {}).items():
                assert PROBLEMS[code][0] == int(status) == example["value"]["status"]
                shown.add(code)
    # A run creates shipments by itself.
    elsewhere = {"shipment-already-created"}
    assert shown == PROBLEMS.keys() - elsewhere


async def test_every_answer_is_shown_by_an_example(document):
    for name, _, operation in operations(document):
        for status, response in operation["responses"].items():
            for kind, content in response.get("content", {}).items():
                if kind != "text/plain":
                    assert content.get("example") or content.get("examples"), (name, status)
            assert "X-Request-Id" in response["headers"], (name, status)


def test_every_refusal_of_the_domain_has_a_status():
    assert REFUSALS.keys() <= PROBLEMS.keys()


def test_every_problem_has_a_page_that_says_what_helps():
    assert PROBLEMS.keys() <= HELP.keys()


async def test_the_examples_of_requests_are_good_ones(document):
    for path, model in (("/orders", NewOrder), ("/orders/{order_id}/items", Item)):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        for example in content["examples"].values():
            assert parse(model, example["value"])


def test_a_new_order_is_what_the_command_takes():
    assert NewOrder.model_fields.keys() == CreateOrder.model_fields.keys()
    for name, field in CreateOrder.model_fields.items():
        assert NewOrder.model_fields[name].annotation == field.annotation


async def test_the_answers_are_what_the_document_says(document, story):
    """Each answer has the fields of its schema, no more and no less."""
    schemas = document["components"]["schemas"]

    def fields(name: str) -> set[str]:
        return set(schemas[name]["properties"])

    created = await story.waybill.post("/orders", json=story.body)
    assert created.json().keys() == fields("WrittenOrder")
    completed = await story.waybill.post(f"{story.path}/complete")
    assert completed.json().keys() == fields("WrittenCompletion")
    shipped = await story.waybill.post(f"/shipments/{completed.json()['shipment_id']}/complete")
    assert shipped.json().keys() == fields("WrittenShipment")
    assert (await story.waybill.get(story.path)).json().keys() == fields("Order")


async def test_a_quantity_is_a_number_and_nothing_else(document):
    for name in ("Item", "OrderItem"):
        assert document["components"]["schemas"][name]["properties"]["quantity"]["type"] == "number"


async def test_docs_are_served(lonely):
    answer = await lonely.get("/docs")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")


async def test_docs_need_no_other_host(lonely):
    page = (await lonely.get("/docs")).text
    assert "https://" not in page
    assert (await lonely.get("/static-offline-docs/swagger-ui-bundle.js")).status_code == 200


async def test_docs_run_no_script_but_their_own(lonely):
    answer = await lonely.get("/docs")
    policy = answer.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")


async def test_where_a_problems_type_leads_it_is_explained(lonely):
    missing = (await lonely.get("/nowhere")).json()
    page = await lonely.get(missing["type"], headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "There is nothing at this path" in page.text
    style = re.search(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert style
    digest = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page.headers["content-security-policy"]

    document = (await lonely.get(missing["type"])).json()
    assert (document["code"], document["status"]) == ("not-found", 404)
    listed = (await lonely.get("/problems")).json()["items"]
    assert {each["code"] for each in listed} == PROBLEMS.keys()
    assert (await lonely.get("/problems/unheard-of")).status_code == 404
