"""Parked events over HTTP: they are shown, and marked for whoever has parked them."""

from collections.abc import AsyncGenerator
from urllib.parse import quote
from uuid import uuid4

import pytest

from eventstore.pool import open_pool
from eventstore.postgres import PostgresStore
from eventstore.store import Append, NewEvent
from over_http import problem, violations
from projections import parking
from projections.parking import Parking
from settings import Settings


@pytest.fixture
async def stream(lonely_settings: Settings) -> AsyncGenerator[str]:
    """A stream whose first event the handler `shipment` could not be done with, nor the projection `orders`."""
    name = f"stream of {uuid4()}"
    async with (
        PostgresStore.open(lonely_settings.event_store_url, 1) as store,
        open_pool(lonely_settings.read_store_url, 1) as views,
    ):
        await store.append(Append(name, "no_stream", [NewEvent(uuid4(), "Order.OrderCompleted", b"{}")]))
        await store.append(Append(name, "any", [NewEvent(uuid4(), "Order.OrderCompleted", b"{}")]))
        first, second = await store.read_stream(name)
        for place, subscriber in ((store.pool, "shipment"), (views, "orders")):
            parked = [Parking(first, "failed", "no carrier", 5), Parking(second, "behind")]
            await parking.park(place, subscriber, parked)
        yield name
        for place, subscriber in ((store.pool, "shipment"), (views, "orders")):
            await parking.done(place, subscriber, [first.position, second.position])


async def shown(lonely, subscriber: str) -> list[str]:
    answer = await lonely.get("/parked", params={"subscriber": subscriber})
    return [each["state"] for each in answer.json()["items"]]


async def test_parked_events_of_projections_and_handlers_are_shown(lonely, stream):
    items = (await lonely.get("/parked?limit=2")).json()["items"]
    assert [(each["subscriber"], each["state"]) for each in items] == [("orders", "failed"), ("shipment", "failed")]
    assert (items[1]["stream_id"], items[1]["reason"], items[1]["attempts"]) == (stream, "no carrier", 5)
    assert items[1]["event_type"] == "Order.OrderCompleted"
    assert await shown(lonely, "shipment") == ["failed", "behind"]
    assert await shown(lonely, "nobody") == []


async def test_a_retry_is_asked_for_of_one_subscriber(lonely, stream):
    answer = await lonely.post(f"/parked/shipment/{quote(stream)}/retry")
    assert answer.status_code == 202
    assert [each["state"] for each in answer.json()["items"]] == ["retry", "retry"]
    assert await shown(lonely, "orders") == ["failed", "behind"]


async def test_the_event_that_holds_a_stream_up_is_discarded(lonely, stream):
    answer = await lonely.post(f"/parked/orders/{quote(stream)}/discard")
    assert answer.status_code == 202
    assert await shown(lonely, "orders") == ["retry", "discarded"]
    assert await shown(lonely, "shipment") == ["failed", "behind"]


@pytest.mark.parametrize("what", ["retry", "discard"])
async def test_what_is_not_parked_is_not_found(lonely, stream, what):
    problem(await lonely.post(f"/parked/nobody/{quote(stream)}/{what}"), 404, "parked-not-found")
    problem(await lonely.post(f"/parked/shipment/{uuid4()}/{what}"), 404, "parked-not-found")


async def test_a_limit_out_of_bounds_is_refused(lonely):
    assert [pointer for pointer, _ in violations(await lonely.get("/parked?limit=0"))] == ["/limit"]


async def test_a_mark_under_a_key_is_set_once(lonely, stream):
    key, path = {"Idempotency-Key": str(uuid4())}, f"/parked/shipment/{quote(stream)}"
    first = await lonely.post(f"{path}/discard", headers=key)
    again = await lonely.post(f"{path}/discard", headers=key)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert await shown(lonely, "shipment") == ["retry", "discarded"]
    problem(await lonely.post(f"{path}/retry", headers=key), 422, "idempotency-key-reused")
