"""WAYBILL_PURGE_DELETED, with a whole worker: what was deleted over HTTP is removed for good when all have seen it."""

from uuid import uuid4

import pytest

import eventstore.migrate
import projections.migrate
from databases import Databases
from eventstore.postgres import PostgresStore
from over_http import Story, gateway, problem
from projecting import rows
from settings import Settings
from support import eventually
from worker import running


@pytest.mark.slow
async def test_a_deleted_order_is_gone_for_good_and_its_callers_hear_what_they_heard(
    databases: Databases, waybill_settings: Settings
):
    async with (
        databases.empty(eventstore.migrate.migrate) as event_store_url,
        databases.empty(projections.migrate.migrate) as read_store_url,
    ):
        settings = waybill_settings.model_copy(
            update={
                "event_store_url": event_store_url,
                "read_store_url": read_store_url,
                "task_queue": f"purge-{uuid4()}",
                "purge_deleted": True,
            }
        )
        async with (
            running(settings),
            gateway(settings) as waybill,
            PostgresStore.open(event_store_url, 1) as store,
        ):
            gone, stays = Story(waybill, store), Story(waybill, store)
            key = {"Idempotency-Key": str(uuid4())}
            first = await waybill.post("/orders", json=gone.body, headers=key)
            assert (first.status_code, (await waybill.post("/orders", json=stays.body)).status_code) == (201, 201)
            assert (await waybill.delete(gone.path)).status_code == 204
            problem(await waybill.get(gone.path), 404, "order-not-found")
            assert [event["type"] for event in (await waybill.get(f"{gone.path}/events")).json()["items"]] == [
                "Order.OrderCreated",
                "Order.OrderDeleted",
            ]

            async def is_gone() -> bool:
                return await store.stream_info(str(gone.order_id)) is None

            await eventually(is_gone, within=60, every=0.2)
            problem(await waybill.get(gone.path), 404, "order-not-found")
            problem(await waybill.get(f"{gone.path}?version=1"), 404, "order-not-found")
            problem(await waybill.get(f"{gone.path}/events"), 404, "order-not-found")
            problem(await waybill.delete(gone.path), 404, "order-not-found")
            again = await waybill.post("/orders", json=gone.body, headers=key)
            assert (again.status_code, again.json()) == (201, first.json())
            assert {event.stream_id for event in await store.read_all()} == {str(stays.order_id)}
            assert (await waybill.get(stays.path)).json()["status"] == "OPEN"
            assert await rows(read_store_url, "select id from orders") == [(stays.order_id,)]
