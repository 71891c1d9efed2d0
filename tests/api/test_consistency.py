"""Reading your own writes: answers wait, within a bound, until the read models have seen what was written."""

import asyncio
from collections.abc import AsyncGenerator

import asyncpg
import httpx2
import pytest

from api.consistency import Consistency
from over_http import gateway
from settings import Settings
from support import eventually


class ReadModels:
    """Positions as a database would tell them, and how often it was asked."""

    def __init__(self, **positions: int) -> None:
        self.positions = positions
        self.asked = 0
        self.down = False

    async def ask(self) -> dict[str, int]:
        self.asked += 1
        if self.down:
            raise ConnectionRefusedError
        return self.positions


@pytest.fixture
def read_models() -> ReadModels:
    return ReadModels(orders=5, shipments=5)


@pytest.fixture
async def consistency(read_models: ReadModels) -> AsyncGenerator[Consistency]:
    consistency = Consistency(read_models.ask)
    yield consistency
    await consistency.close()


async def test_a_position_that_was_reached_is_found_in_the_table(consistency):
    assert await consistency.reached(5, within=5)


async def test_what_is_known_is_not_asked_again(consistency, read_models):
    assert await consistency.reached(5, within=5)
    asked = read_models.asked
    assert await consistency.reached(4, within=5)
    assert await consistency.reached(0, within=0)
    assert read_models.asked == asked


async def test_waiting_has_a_bound(consistency):
    assert not await consistency.reached(6, within=0.05)
    assert not await consistency.reached(6, within=0)


async def test_a_notification_ends_the_wait(consistency):
    waiting = asyncio.create_task(consistency.reached(7, within=5))
    await eventually(lambda: consistency._waiters)
    consistency.heard("orders,1,7")
    assert not waiting.done()
    consistency.heard("shipments,1,8")
    assert await waiting


async def test_without_notifications_the_table_is_looked_at_again(consistency, read_models):
    waiting = asyncio.create_task(consistency.reached(7, within=5))
    await eventually(lambda: read_models.asked)
    read_models.positions = {"orders": 7, "shipments": 7}
    assert await waiting


async def test_whoever_reads_one_read_model_waits_for_that_one(consistency):
    consistency.heard("orders,1,9")
    assert await consistency.reached(9, projections=["orders"], within=0)
    assert not await consistency.reached(9, projections=["shipments"], within=0)


async def test_a_thousand_who_wait_ask_once(consistency, read_models):
    waiting = [asyncio.create_task(consistency.reached(7, within=5)) for _ in range(1000)]
    await eventually(lambda: len(consistency._waiters) == 1000)
    consistency.heard("orders,1,7")
    consistency.heard("shipments,1,7")
    assert all(await asyncio.gather(*waiting))
    assert read_models.asked == 1


async def test_a_database_that_is_away_is_asked_again(consistency, read_models):
    read_models.down = True
    waiting = asyncio.create_task(consistency.reached(5, within=5))
    await eventually(lambda: read_models.asked > 1)
    read_models.down = False
    assert await waiting


async def test_whoever_may_have_missed_something_asks_again(consistency, read_models):
    assert await consistency.reached(5, within=5)
    consistency.heard(None)
    assert not await consistency.reached(5, within=0)
    assert await consistency.reached(5, within=5)


@pytest.mark.parametrize(
    "payload",
    ["", "orders", "orders,", "orders,7", "orders,1,x", "orders,1,-7", ",,", "orders,2,7", "orders,1,7,8"],
)
async def test_a_notification_of_another_kind_means_nothing(consistency, payload):
    consistency.heard(payload)
    assert not await consistency.reached(7, within=0)


async def move_to(read_store_url: str, position: int) -> None:
    connection = await asyncpg.connect(read_store_url)
    await connection.executemany(
        "insert into projection_versions (projection_name, last_seen_event_number) values ($1, $2) "
        "on conflict (projection_name) do update set last_seen_event_number = excluded.last_seen_event_number",
        [("orders", position), ("shipments", position)],
    )
    await connection.execute(f"select pg_notify('waybill_projections', 'orders,1,{position}')")
    await connection.execute(f"select pg_notify('waybill_projections', 'shipments,1,{position}')")
    await connection.close()


async def test_a_reader_waits_for_the_position_that_it_names(lonely: httpx2.AsyncClient, lonely_settings: Settings):
    await move_to(lonely_settings.read_store_url, 7)
    for path in ("/orders", "/shipments"):
        seen = await lonely.get(f"{path}?min_position=7")
        assert seen.status_code == 200
        assert "waybill-consistency" not in seen.headers


async def test_a_reader_who_has_waited_in_vain_is_told(lonely: httpx2.AsyncClient, lonely_settings: Settings):
    await move_to(lonely_settings.read_store_url, 7)
    for path in ("/orders", "/shipments"):
        behind = await lonely.get(f"{path}?min_position=8")
        assert (behind.status_code, behind.headers["waybill-consistency"]) == (200, "eventual")


async def test_an_answer_that_has_waited_in_vain_says_so(story, waybill_settings, lonely_settings):
    await move_to(lonely_settings.read_store_url, 0)
    without_projections = {"read_store_url": lonely_settings.read_store_url, "consistency_timeout": 0.05}
    async with gateway(waybill_settings.model_copy(update=without_projections)) as client:
        answer = await client.post("/orders", json=story.body)
        assert (answer.status_code, answer.headers["waybill-consistency"]) == (201, "eventual")
    path, position = answer.headers["location"], answer.json()["position"]
    assert (await story.waybill.get(f"{path}?min_position={position}")).json()["version"] == 1


async def test_whoever_prefers_not_to_wait_is_told_where_to_look(story):
    hasty = {"Prefer": "respond-async, wait=10"}
    accepted = await story.waybill.post("/orders", json=story.body, headers=hasty)
    assert accepted.status_code == 202
    assert accepted.headers["preference-applied"] == "respond-async"
    assert accepted.json()["id"] == str(story.order_id)

    async def visible() -> bool:
        return (await story.waybill.get(accepted.headers["location"])).status_code == 200

    await eventually(visible)
    completed = await story.waybill.post(f"{story.path}/complete", headers=hasty)
    assert (completed.status_code, completed.headers["location"]) == (202, story.path)


async def test_a_refusal_is_told_even_to_whoever_does_not_wait(story):
    hasty = {"Prefer": "respond-async"}
    assert (await story.waybill.post(f"{story.path}/complete", headers=hasty)).status_code == 404
    await story.given(story.created)
    assert (await story.waybill.post("/orders", json=story.body, headers=hasty)).status_code == 409
