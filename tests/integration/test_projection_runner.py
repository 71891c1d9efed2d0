"""The projections at work: they follow the events, tell how far they are, and outlive what happens to the databases."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from databases import Databases, PrivateServer
from eventstore.listener import listening
from eventstore.migrate import migrate as migrate_event_store
from eventstore.postgres import PostgresStore
from eventstore.store import EventStore, RecordedEvent
from projecting import append, append_all, append_raw, caught_up, created, projecting, rows, whole_life
from projections.held_up import UNDECODABLE
from projections.migrate import migrate as migrate_read_store
from projections.orders import ORDERS
from projections.projection import Happened
from projections.runner import PROJECTIONS_CHANNEL
from support import eventually

Logs = list[Any]


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url, pool_size=4) as store:
        yield store


@pytest.fixture
def logs() -> Any:
    with capture_logs() as captured:
        yield captured


def said(logs: Logs, event: str, **fields: object) -> Logs:
    return [entry for entry in logs if entry["event"] == event and fields.items() <= entry.items()]


async def statuses(read_store_url: str) -> list[str]:
    return [status for (status,) in await rows(read_store_url, "select status from orders order by position")]


async def test_projections_catch_up_with_what_was_there_and_follow_what_comes(
    store: EventStore, event_store_url: str, read_store_url: str
):
    for _ in range(25):
        await append_all(store, whole_life(uuid4()))

    async with projecting(store, event_store_url, read_store_url, batch=10):
        await caught_up(store, read_store_url)
        assert await statuses(read_store_url) == ["SHIPPED"] * 25

        await append_all(store, whole_life(uuid4())[:3])
        await caught_up(store, read_store_url)
        assert await statuses(read_store_url) == ["SHIPPED"] * 25 + ["COMPLETED"]

    items, units = (await rows(read_store_url, "select count(*), sum(quantity) from order_items"))[0]
    assert (items, units) == (26 * 3, 26 * 6)


async def test_work_goes_on_from_the_checkpoint(store: EventStore, event_store_url: str, read_store_url: str):
    applied: list[int] = []

    async def noting(connection: Any, batch: Sequence[Happened]) -> None:
        applied.extend(happened.position for happened in batch)
        await ORDERS.apply(connection, batch)

    for _ in range(3):
        await append_all(store, whole_life(uuid4()))
        async with projecting(store, event_store_url, read_store_url, projections=[replace(ORDERS, apply=noting)]):
            await caught_up(store, read_store_url, projections=[ORDERS])

    assert applied == list(range(1, 16))


async def test_a_checkpoint_also_moves_over_events_that_are_not_the_projections_own(
    store: EventStore, event_store_url: str, read_store_url: str
):
    await append(store, str(uuid4()), created(uuid4()))
    await append_raw(store, str(uuid4()), "Invoice.InvoiceSent", b"{}")

    async with projecting(store, event_store_url, read_store_url):
        await caught_up(store, read_store_url)

    assert await rows(
        read_store_url, "select projection_name, last_seen_event_number from projection_versions order by 1"
    ) == [
        ("orders", 2),
        ("shipments", 2),
    ]


async def test_an_operator_who_empties_the_tables_and_the_checkpoint_has_all_projected_again(
    store: EventStore, event_store_url: str, read_store_url: str
):
    await append_all(store, whole_life(uuid4()))
    async with projecting(store, event_store_url, read_store_url):
        await caught_up(store, read_store_url)
        before = await rows(
            read_store_url, "select * from orders join order_items on order_id = orders.id order by line"
        )
        connection = await asyncpg.connect(read_store_url)
        await connection.execute("truncate orders, order_items, shipments, projection_versions")
        await connection.close()

        await caught_up(store, read_store_url)
    again = await rows(read_store_url, "select * from orders join order_items on order_id = orders.id order by line")
    assert again == before


async def test_an_event_that_comes_while_others_are_read_is_not_passed_over(
    store: PostgresStore, event_store_url: str, read_store_url: str, monkeypatch: pytest.MonkeyPatch
):
    read_all, stream_version = store.read_all, store.stream_version
    late = [uuid4(), uuid4()]

    async def read_then_append(**what: Any) -> list[RecordedEvent]:
        page = await read_all(**what)
        if late:
            await append(store, str(late[-1]), created(late.pop()))
        return page

    async def look_then_append(stream_id: str) -> int:
        head = await stream_version(stream_id)
        if late:
            await append(store, str(late[-1]), created(late.pop()))
        return head

    await append(store, str(uuid4()), created(uuid4()))
    monkeypatch.setattr(store, "read_all", read_then_append)
    monkeypatch.setattr(store, "stream_version", look_then_append)
    async with projecting(store, event_store_url, read_store_url, projections=[ORDERS]):
        await eventually(lambda: not late)
        await caught_up(store, read_store_url, projections=[ORDERS])

    assert await statuses(read_store_url) == ["OPEN"] * 3


async def test_who_waits_for_a_position_is_told_when_its_rows_can_be_seen(
    store: EventStore, event_store_url: str, read_store_url: str
):
    told: asyncio.Queue[str] = asyncio.Queue()
    connected = asyncio.Event()

    def tell(payload: str | None) -> None:
        if payload is None:
            connected.set()
        else:
            told.put_nowait(payload)

    async with listening(read_store_url, PROJECTIONS_CHANNEL, tell):
        await asyncio.wait_for(connected.wait(), 10)
        async with projecting(store, event_store_url, read_store_url, projections=[ORDERS]):
            await append(store, str(uuid4()), created(uuid4()))
            assert await asyncio.wait_for(told.get(), 10) == "orders,1,1"
            assert await statuses(read_store_url) == ["OPEN"]


async def test_an_event_that_was_known_to_be_unreadable_is_left_out_and_the_others_are_projected(
    store: EventStore, event_store_url: str, read_store_url: str, logs: Logs
):
    counter = UNDECODABLE.labels("orders")
    before = counter._value.get()
    order_id = uuid4()
    await append_raw(store, str(order_id), "Order.OrderCompleted", b'{"id": null}')
    await append(store, "no-uuid", created(uuid4()))
    await append(store, str(order_id), created(order_id))

    async with projecting(store, event_store_url, read_store_url, reported=lambda event: event.position < 3):
        await caught_up(store, read_store_url)

    assert await rows(read_store_url, "select id from orders") == [(order_id,)]
    reported = said(logs, "projection.undecodable", projection="orders", log_level="error")
    assert [entry["position"] for entry in reported] == [1, 2]
    assert counter._value.get() - before == 2
    assert await rows(read_store_url, "select * from waybill.parked") == []


async def test_a_notification_makes_an_event_visible_long_before_the_next_poll(
    store: EventStore, event_store_url: str, read_store_url: str
):
    async with projecting(store, event_store_url, read_store_url, lease=600, poll=200):
        await caught_up(store, read_store_url)
        await append(store, str(uuid4()), created(uuid4()))
        await caught_up(store, read_store_url, within=5)


async def test_without_notifications_events_are_found_by_looking(store: EventStore, read_store_url: str, logs: Logs):
    nobody_there = "postgresql://127.0.0.1:1/nowhere"

    async with projecting(store, nobody_there, read_store_url):
        await append(store, str(uuid4()), created(uuid4()))
        await caught_up(store, read_store_url)
        await append(store, str(uuid4()), created(uuid4()))
        await caught_up(store, read_store_url)

    assert len(said(logs, "listener.lost")) == 1


async def test_a_lost_listening_connection_is_opened_again(
    store: EventStore, event_store_url: str, read_store_url: str, logs: Logs
):
    async with projecting(store, event_store_url, read_store_url, lease=600, poll=200):
        await caught_up(store, read_store_url)
        cut = await rows(
            event_store_url, "select pg_terminate_backend(pid) from pg_stat_activity where query like 'LISTEN%'"
        )
        assert cut == [(True,)]
        await eventually(lambda: said(logs, "listener.back"))

        await append(store, str(uuid4()), created(uuid4()))
        await caught_up(store, read_store_url, within=5)


@pytest.mark.parametrize("gone", ["event store", "read store"])
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_projections_go_on_when_a_database_was_away(
    databases: Databases, private_postgres: PrivateServer, gone: str, how: str, logs: Logs
):
    async with AsyncExitStack() as stack:
        events_on = private_postgres if gone == "event store" else databases
        reads_on = private_postgres if gone == "read store" else databases
        event_store_url = await stack.enter_async_context(events_on.empty(migrate_event_store))
        read_store_url = await stack.enter_async_context(reads_on.empty(migrate_read_store))
        store = await stack.enter_async_context(PostgresStore.open(event_store_url, pool_size=4))
        await stack.enter_async_context(projecting(store, event_store_url, read_store_url, projections=[ORDERS]))
        await append(store, str(uuid4()), created(uuid4()))
        await caught_up(store, read_store_url, projections=[ORDERS])

        await (private_postgres.kill() if how == "kill" else private_postgres.stop())
        await eventually(lambda: said(logs, "projection.interrupted"))
        await private_postgres.start()

        await append(store, str(uuid4()), created(uuid4()))
        await caught_up(store, read_store_url, projections=[ORDERS], within=20)
        assert await statuses(read_store_url) == ["OPEN", "OPEN"]
        # Once each, however many attempts there were.
        assert len(said(logs, "projection.interrupted")) == 1
        await eventually(lambda: len(said(logs, "projection.resumed")) == 1)
        assert not said(logs, "projection.failed")


async def test_a_projection_whose_tables_are_not_as_they_should_be_is_tried_again_ever_more_slowly(
    store: EventStore, event_store_url: str, read_store_url: str, logs: Logs
):
    await rows(read_store_url, "alter table orders rename column status to state")
    await append_all(store, whole_life(uuid4()))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with projecting(store, event_store_url, read_store_url, projections=[ORDERS]):
        await eventually(lambda: len(said(logs, "projection.failed")) >= 4)
        assert loop.time() - began > 0.3
        assert {entry["after"] for entry in said(logs, "projection.failed")} == {0}
        # It is no fault of the events.
        assert await rows(read_store_url, "select * from waybill.parked") == []

        await rows(read_store_url, "alter table orders rename column state to status")
        await caught_up(store, read_store_url, projections=[ORDERS])
    assert await statuses(read_store_url) == ["SHIPPED"]
    assert len(said(logs, "projection.resumed")) == 1


async def test_a_projection_that_is_ahead_of_all_events_says_so(
    store: EventStore, event_store_url: str, read_store_url: str, logs: Logs
):
    await rows(
        read_store_url,
        "update projection_versions set last_seen_event_number = 7 where projection_name = 'orders'",
    )

    async with projecting(store, event_store_url, read_store_url, projections=[ORDERS]):
        await eventually(lambda: said(logs, "projection.failed", log_level="error"))

    assert "AheadOfEvents" in said(logs, "projection.failed")[0]["reason"]


async def test_migrations_can_run_twice_and_at_the_same_time(databases: Databases):
    async with databases.empty() as url:
        at_once = await asyncio.gather(*(migrate_read_store(url) for _ in range(3)))

        assert sorted(map(len, at_once))[:2] == [0, 0]
        assert await migrate_read_store(url) == []
