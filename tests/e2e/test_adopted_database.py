"""The database of a Commanded application goes on under Waybill: orders that it left open are taken to shipment."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import orjson
import pytest
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

import eventstore.verify
import projections.migrate
import projections.verify
from databases import Databases
from domain.ids import shipment_id
from elixir import as_the_original_appends, needs_dumps, restored
from eventstore.adopt import adopt
from eventstore.adopted import AdoptedStore
from eventstore.store import Append, NewEvent
from over_http import gateway, problem
from projecting import caught_up, rows
from settings import Settings
from worker import running
from workflows.messages import workflow_id

pytestmark = needs_dumps

SHIPPED_TOO_EARLY = UUID("d26251e6-6f68-440a-ac7b-f843d2306b6b")
EARLY_SHIPMENT = UUID("5d0f2f52-9f3a-4f9d-8a52-0c2f1d7f3b11")
BLOCKED = UUID("55e76be0-b83e-4b3c-addd-f3d9e8835be2")


@dataclass(frozen=True)
class Adopted:
    """A Waybill on an adopted database. Tests share it, and each takes an order of its own."""

    http: httpx2.AsyncClient
    store: AdoptedStore
    temporal: Client
    settings: Settings

    async def an_order(self, status: str) -> dict[str, Any]:
        """One that has this status and no blocked product, and that no test has had before."""
        found = await rows(
            self.settings.read_store_url,
            """
            update orders set business_partner = 'taken@example.com'
            where id = (
              select id from orders o
              where status = $1 and business_partner <> 'taken@example.com'
                and not exists (select from order_items i where i.order_id = o.id and i.product_id = $2)
              order by position limit 1
            )
            returning id
            """,
            status,
            BLOCKED,
        )
        return await self.get(f"/orders/{found[0][0]}")

    async def get(self, path: str) -> dict[str, Any]:
        answer = await self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, **options: Any) -> dict[str, Any]:
        answer = await self.http.post(path, **options)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    async def outcome(self, order_id: UUID | str) -> str:
        """How the order's run has ended."""
        return await self.temporal.get_workflow_handle(workflow_id(UUID(str(order_id)))).result()

    async def types(self, stream: UUID | str) -> list[str]:
        return [event.type.split(".")[1] for event in await self.store.read_stream(str(stream))]


async def create_early_shipment(url: str) -> None:
    """The old system has created the shipment of an order that is still open."""
    connection = await asyncpg.connect(url)
    try:
        data = orjson.dumps({"id": str(EARLY_SHIPMENT), "order_id": str(SHIPPED_TOO_EARLY)})
        async with connection.transaction():
            await as_the_original_appends(connection, str(EARLY_SHIPMENT), "Shipment.ShipmentCreated", data)
    finally:
        await connection.close()


@asynccontextmanager
async def waybill_on(
    which: str, databases: Databases, temporal_environment: WorkflowEnvironment
) -> AsyncGenerator[Adopted]:
    client = temporal_environment.client
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TEMPORAL_ADDRESS", client.service_client.config.target_host)
        environment.setenv("TEMPORAL_NAMESPACE", client.namespace)
        async with (
            restored(databases, which) as event_store_url,
            databases.empty(projections.migrate.migrate) as read_store_url,
        ):
            if which == "dirty":
                await create_early_shipment(event_store_url)
            await adopt(event_store_url, lambda *_: None)
            settings = Settings(
                event_store_url=event_store_url,
                read_store_url=read_store_url,
                task_queue=f"adopted-{uuid4()}",
                consistency_timeout=10,
            )
            async with (
                running(settings),
                gateway(settings) as http,
                AdoptedStore.open(event_store_url, 2) as store,
            ):
                await caught_up(store, read_store_url)
                yield Adopted(http, store, client, settings)


@pytest.fixture(scope="module")
async def clean(databases: Databases, temporal_environment: WorkflowEnvironment) -> AsyncGenerator[Adopted]:
    async with waybill_on("clean", databases, temporal_environment) as adopted:
        yield adopted


@pytest.fixture(scope="module")
async def dirty(databases: Databases, temporal_environment: WorkflowEnvironment) -> AsyncGenerator[Adopted]:
    async with waybill_on("dirty", databases, temporal_environment) as adopted:
        yield adopted


def new_order(**members: Any) -> dict[str, Any]:
    item = {"product_id": str(uuid4()), "quantity": 1, "uom": "KG"}
    return {"order_number": f"NEW-{uuid4()}", "business_partner": "ann@example.com", "items": [item]} | members


# --- A clean history


async def test_an_order_that_was_left_open_is_completed_and_shipped(clean: Adopted):
    order = await clean.an_order("OPEN")
    item = {"product_id": str(uuid4()), "quantity": 2.5, "uom": "MT"}
    await clean.post(f"/orders/{order['id']}/items", json=item)

    completed = await clean.post(f"/orders/{order['id']}/complete")
    assert completed["shipment_id"] == str(shipment_id(UUID(order["id"])))
    await clean.post(f"/shipments/{completed['shipment_id']}/complete")

    shown = await clean.get(f"/orders/{order['id']}")
    assert (shown["status"], shown["version"], len(shown["items"])) == ("SHIPPED", 3, len(order["items"]) + 1)
    assert await clean.outcome(order["id"]) == "shipped"


async def test_a_number_that_the_old_system_has_used_is_taken(clean: Adopted):
    order = await clean.an_order("COMPLETED")
    answer = await clean.http.post("/orders", json=new_order(order_number=order["order_number"]))
    problem(answer, 409, "order-number-taken")


async def test_an_id_that_the_old_system_has_used_is_taken(clean: Adopted):
    order = await clean.an_order("OPEN")
    answer = await clean.http.post("/orders", json=new_order(id=order["id"]))
    problem(answer, 409, "order-already-created")


async def test_a_number_is_free_again_when_its_adopted_order_is_deleted(clean: Adopted):
    order = await clean.an_order("OPEN")
    assert (await clean.http.delete(f"/orders/{order['id']}")).status_code == 204
    assert (await clean.post("/orders", json=new_order(order_number=order["order_number"])))["status"] == "OPEN"


async def test_a_shipment_that_the_old_system_has_created_is_completed(clean: Adopted):
    order = await clean.an_order("COMPLETED")
    shipment = order["shipment"]["id"]
    assert shipment != str(shipment_id(UUID(order["id"])))

    answer = await clean.post(f"/shipments/{shipment}/complete")

    assert (answer["id"], answer["order_id"], answer["status"]) == (shipment, order["id"], "COMPLETED")
    assert (await clean.get(f"/orders/{order['id']}"))["status"] == "SHIPPED"
    assert await clean.outcome(order["id"]) == "shipped"
    again = await clean.http.post(f"/shipments/{shipment}/complete")
    problem(again, 409, "shipment-already-completed")
    assert await clean.types(shipment) == ["ShipmentCreated", "ShipmentCompleted"]


@pytest.mark.parametrize("status", ["COMPLETED", "SHIPPED"])
async def test_an_order_that_has_its_shipment_never_gets_a_second_one(clean: Adopted, status: str):
    order = await clean.an_order(status)

    for _ in range(2):
        # Each refusal wakes a run that looks the order up, and would create what it owes.
        refused = await clean.http.post(f"/orders/{order['id']}/complete")
        problem(refused, 409, "order-already-completed")
    if status == "SHIPPED":
        assert await clean.outcome(order["id"]) == "shipped"
    else:
        await clean.post(f"/shipments/{order['shipment']['id']}/complete")
        assert await clean.outcome(order["id"]) == "shipped"

    assert await clean.types(shipment_id(UUID(order["id"]))) == []


async def test_a_shipment_is_completed_by_its_own_orders_run_only(clean: Adopted):
    order = await clean.an_order("COMPLETED")
    astray = await clean.http.post(f"/shipments/{order['id']}/complete")
    problem(astray, 404, "shipment-not-found")


async def test_an_event_that_cannot_be_read_stops_its_own_order_and_nothing_else(clean: Adopted):
    order = await clean.an_order("OPEN")
    broken = NewEvent(uuid4(), "Order.OrderItemAdded", b'{"id": null}')
    await clean.store.append(Append(order["id"], "any", [broken]))

    for path in ("items", "complete"):
        options: dict[str, Any] = (
            {"json": {"product_id": str(uuid4()), "quantity": 1, "uom": "KG"}} if path == "items" else {}
        )
        answer = await clean.http.post(f"/orders/{order['id']}/{path}", **options)
        assert str(broken.event_id) in problem(answer, 409, "history-unreadable")["detail"]
        assert await clean.outcome(order["id"]) == "unreadable"

    problem(await clean.http.get(f"/orders/{order['id']}?version=2"), 409, "history-unreadable")
    shown = await clean.get(f"/orders/{order['id']}")
    assert (shown["status"], shown["version"]) == ("OPEN", 1)
    timeline = await clean.get(f"/orders/{order['id']}/events")
    assert [event["data"] for event in timeline["items"]][1:] == [{"id": None}]


async def test_events_of_another_kind_are_shown_as_they_are(clean: Adopted):
    stream = f"customer-{uuid4()}"
    appended = await clean.store.append(Append(stream, "any", [NewEvent(uuid4(), "Customer.Registered", b"\x83text")]))
    (event,) = (await clean.get(f"/events?after={appended.first_position - 1}&limit=1"))["items"]
    assert (event["stream_id"], event["type"], event["data"]) == (stream, "Customer.Registered", "\ufffdtext")


# --- A dirty one


async def test_an_open_order_with_a_shipment_keeps_that_one_when_it_is_completed(dirty: Adopted):
    completed = await dirty.post(f"/orders/{SHIPPED_TOO_EARLY}/complete")
    assert completed["shipment_id"] == str(EARLY_SHIPMENT)
    await dirty.post(f"/shipments/{EARLY_SHIPMENT}/complete")

    assert await dirty.outcome(SHIPPED_TOO_EARLY) == "shipped"
    assert await dirty.types(shipment_id(SHIPPED_TOO_EARLY)) == []
    assert (await dirty.get(f"/orders/{SHIPPED_TOO_EARLY}"))["status"] == "SHIPPED"


async def test_an_order_whose_stream_was_deleted_is_shown_and_takes_no_commands(dirty: Adopted):
    order_id, shipment = "97ea0578-c78a-4f71-aa55-d584e9d139b8", "21d9aa73-b349-4f2d-b192-2739d6dec615"
    shown = await dirty.get(f"/orders/{order_id}")
    assert (shown["status"], shown["shipment"]["id"]) == ("OPEN", shipment)
    for path in (f"/orders/{order_id}/complete", f"/shipments/{shipment}/complete"):
        assert (await dirty.http.post(path)).status_code == 404


async def test_of_two_shipments_the_first_counts_and_the_other_can_still_be_asked_for(dirty: Adopted):
    order_id = "00b353c2-ac31-453c-9a61-5ccca99e06e7"
    first, second = "2036f08f-d69e-4896-b0ce-271c68d1950b", "af56f6a6-08c8-4335-816c-844ec7c1add5"
    assert (await dirty.get(f"/shipments/{second}"))["status"] == "COMPLETED"
    problem(await dirty.http.post(f"/shipments/{second}/complete"), 409, "shipment-already-completed")
    assert (await dirty.get(f"/orders/{order_id}"))["status"] == "COMPLETED"

    await dirty.post(f"/shipments/{first}/complete")

    assert (await dirty.get(f"/orders/{order_id}"))["status"] == "SHIPPED"
    assert await dirty.outcome(order_id) == "shipped"


@pytest.mark.parametrize("name", ["D631F95E-467B-4347-BA46-BA96B2E6A960", "1e32c6bd124f49819ba3ae234e547f73"])
async def test_an_order_whose_stream_is_named_in_another_form_lives_like_any_other(dirty: Adopted, name: str):
    order_id = UUID(name)
    assert (await dirty.get(f"/orders/{order_id}"))["status"] == "OPEN"
    problem(await dirty.http.post("/orders", json=new_order(id=str(order_id))), 409, "order-already-created")

    keyed = {"Idempotency-Key": name}
    first = await dirty.post(f"/orders/{order_id}/complete", headers=keyed)
    again = await dirty.post(f"/orders/{order_id}/complete", headers=keyed)
    assert first == again
    await dirty.post(f"/shipments/{first['shipment_id']}/complete")

    assert (await dirty.get(f"/orders/{order_id}"))["status"] == "SHIPPED"
    timeline = await dirty.get(f"/orders/{order_id}/events")
    assert [(event["stream_id"], event["version"]) for event in timeline["items"]] == [(name, 1), (name, 2)]
    assert (await dirty.get(f"/orders/{order_id}?version=1"))["status"] == "OPEN"


@pytest.mark.parametrize(
    "path", ["/orders/76f013b8-28cd-4eef-aec2-d8fdb547855d", "/shipments/2298a41b-dd90-4e99-b5ea-5340307b49d0"]
)
async def test_what_never_existed_is_not_found_and_says_why_it_takes_no_command(dirty: Adopted, path: str):
    assert (await dirty.http.get(path)).status_code == 404
    problem(await dirty.http.post(f"{path}/complete"), 409, "history-unreadable")


async def test_both_orders_of_a_number_that_was_taken_twice_live_on(dirty: Adopted):
    found = (await dirty.get("/orders?order_number=DUP-CONC20"))["items"]
    assert len(found) == 2
    problem(await dirty.http.post("/orders", json=new_order(order_number="DUP-CONC20")), 409, "order-number-taken")
    for order in found:
        assert (await dirty.post(f"/orders/{order['id']}/complete"))["status"] == "COMPLETED"


# --- After all that


@pytest.fixture(params=["clean", "dirty"])
def either(request: pytest.FixtureRequest) -> Adopted:
    return request.getfixturevalue(request.param)


async def test_handlers_go_on_in_the_old_subscriptions_and_nothing_new_is_wrong(either: Adopted):
    url = either.settings.event_store_url
    positions = dict(await rows(url, "select subscription_name, last_seen from subscriptions"))
    assert positions.keys() == {"orders", "shipment", "stream_linker"}
    assert positions["orders"] in {1375, 205}
    assert positions["stream_linker"] >= positions["orders"]
    assert await rows(url, "select * from waybill.parked where state = 'failed'") == []

    found, _ = await eventstore.verify.verify(url, lambda *_: None)
    # One that another test has planted may be among them.
    assert {finding.kind for finding in found.findings} <= {"undecodable-event"}
    rows_at_fault = await projections.verify.verify(either.settings.read_store_url, either.store, lambda *_: None)
    # What was said at the adoption is not said again; what a test has planted in the clean history is.
    parked = [finding for finding in rows_at_fault if finding.kind == "parked-event"]
    assert len(parked) == len(found.findings)
    # Tests mark the orders that they have taken.
    assert all(
        "business_partner is taken@example.com" in finding.text for finding in rows_at_fault if finding not in parked
    )
