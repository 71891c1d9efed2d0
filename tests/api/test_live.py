"""Live streams of events: every event once and in order, whatever client, gateway and database do meanwhile."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from uuid import uuid4

import httpx2
import pytest

import eventstore.migrate
import projections.migrate
from api.keys import generate
from databases import Databases
from eventstore.postgres import PostgresStore
from faults import interposed
from live_streams import Listener, Serving, happened, metric, serving
from over_http import problem, violations
from settings import Settings
from support import eventually


@pytest.fixture(scope="module")
async def settings(databases: Databases) -> AsyncGenerator[Settings]:
    async with (
        databases.empty(eventstore.migrate.migrate) as event_store_url,
        databases.empty(projections.migrate.migrate) as read_store_url,
    ):
        yield Settings(event_store_url=event_store_url, read_store_url=read_store_url)


@pytest.fixture(scope="module")
async def gateway(settings: Settings) -> AsyncGenerator[Serving]:
    async with serving(settings) as server:
        yield server


@pytest.fixture(scope="module")
async def store(settings: Settings) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(settings.event_store_url, 2) as store:
        yield store


@pytest.fixture
async def http(gateway: Serving) -> AsyncGenerator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=gateway.url) as client:
        yield client


async def test_an_event_is_told_as_it_happens_and_as_pages_show_it(gateway, store, http):
    order = uuid4()
    await store.append(happened(uuid4(), 3))
    async with Listener.at(gateway.port, "/events") as listener:
        assert listener.status == 200
        assert "content-type: text/event-stream" in listener.head
        appended = await store.append(happened(order, 1))
        number, kind, event = await listener.event()

    page = await http.get(f"/events?after={appended.first_position - 1}")
    assert page.headers["vary"] == "Accept"
    assert page.json()["items"] == [event]
    assert (number, kind) == (appended.first_position, "Test.Happened") == (event["position"], event["type"])
    assert event["stream_id"] == str(order)


async def test_a_stream_begins_where_it_is_asked_to(gateway, store):
    head = (await store.append(happened(uuid4(), 5))).first_position + 4
    async with (
        Listener.at(gateway.port, f"/events?after={head - 3}") as after,
        Listener.at(gateway.port, "/events?after=0", Last_Event_ID=str(head - 1)) as resumed,
        Listener.at(gateway.port, "/events?after=0") as whole,
    ):
        assert [number for number, _, _ in await after.events(3)] == [head - 2, head - 1, head]
        assert [number for number, _, _ in await resumed.events(1)] == [head]
        kept = [event.position for event in await store.read_all(limit=head)]
        assert [number for number, _, _ in await whole.events(len(kept))] == kept


async def test_who_is_cut_off_before_the_first_event_can_resume(gateway, store):
    head = await store.stream_version("$all")
    async with Listener.at(gateway.port, "/events") as listener:
        assert await listener.line() == "retry: 1000"
        assert await listener.line() == f"id: {head}"
    await store.append(happened(uuid4(), 2))
    async with Listener.at(gateway.port, "/events", Last_Event_ID=str(head)) as listener:
        assert [number for number, _, _ in await listener.events(2)] == [head + 1, head + 2]


async def test_from_any_point_and_through_any_cut_each_event_comes_once_while_more_are_appended(gateway, store):
    """Many join in the past or just now, are cut off again and again, and go on with their last id."""
    total = 600
    first = await store.stream_version("$all")

    async def write() -> None:
        for _ in range(total // 4):
            await store.append(happened(uuid4(), 4))

    async def read(start: int) -> list[int]:
        seen: list[int] = []
        while not seen or seen[-1] < first + total:
            last = str(seen[-1] if seen else start)
            async with Listener.at(gateway.port, "/events", Last_Event_ID=last) as listener:
                for _ in range(random.randint(1, 300)):
                    number, _, _ = await listener.event()
                    seen.append(number)
                    if number == first + total:
                        break
        return seen

    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        starts = [max(0, first - random.randrange(3)) for _ in range(12)]
        readers = [tasks.create_task(read(start)) for start in starts]
        tasks.create_task(write())
    for start, reader in zip(starts, readers, strict=True):
        assert reader.result() == list(range(start + 1, first + total + 1))


async def test_events_of_other_types_are_left_out_but_not_looked_at_again(gateway, store, monkeypatch):
    monkeypatch.setattr("api.live.HEARTBEAT_SECONDS", 0.05)
    path = "/events?type=Test.Wanted&type=Test.Rare"
    await store.append(happened(uuid4(), 1, "Test.Rare"))
    async with Listener.at(gateway.port, path) as listener:
        await store.append(happened(uuid4(), 1))
        wanted = await store.append(happened(uuid4(), 1, "Test.Wanted"))
        assert [(number, kind) for number, kind, _ in await listener.events(1)] == [
            (wanted.first_position, "Test.Wanted")
        ]
        others = await store.append(happened(uuid4(), 3))

        await listener.until(f"id: {others.first_position + 2}")


async def test_rare_events_of_the_past_are_looked_for_a_stretch_at_a_time(gateway, store, monkeypatch):
    monkeypatch.setattr("api.live.SPAN", 2)
    others = await store.append(happened(uuid4(), 7))
    rare = await store.append(happened(uuid4(), 1, "Test.VeryRare"))
    start = str(others.first_position)
    async with Listener.at(gateway.port, "/events?type=Test.VeryRare", Last_Event_ID=start) as listener:
        # Whoever is cut off on the way comes back with how far it was.
        await listener.until(f"id: {others.first_position + 2}")
        assert [number for number, _, _ in await listener.events(1)] == [rare.first_position]


async def test_a_silent_stream_has_heartbeats(gateway, monkeypatch):
    monkeypatch.setattr("api.live.HEARTBEAT_SECONDS", 0.05)
    async with Listener.at(gateway.port, "/events") as listener:
        await listener.until(":")


async def test_one_orders_stream_has_its_own_events_by_version(gateway, store):
    order, other = uuid4(), uuid4()
    await store.append(happened(order, 3, "Order.Happened"))
    async with (
        Listener.at(gateway.port, f"/orders/{order}/events?after=1") as from_first,
        Listener.at(gateway.port, f"/orders/{order}/events", Last_Event_ID="2") as resumed,
        Listener.at(gateway.port, f"/orders/{order}/events") as from_now,
    ):
        assert [number for number, _, _ in await from_first.events(2)] == [2, 3]
        assert [number for number, _, _ in await resumed.events(1)] == [3]
        await store.append(happened(other, 2))
        await store.append(happened(order, 2, "Order.Happened"))
        for listener in (from_first, resumed, from_now):
            events = await listener.events(2)
            assert [number for number, _, _ in events] == [4, 5]
            assert {event["stream_id"] for _, _, event in events} == {str(order)}


async def test_an_order_that_never_was_has_no_stream(http):
    live = {"Accept": "text/event-stream"}
    problem(await http.get(f"/orders/{uuid4()}/events", headers=live), 404, "order-not-found")
    broken = await http.get("/events?after=-1", headers=live | {"Last-Event-ID": "yesterday"})
    assert {where for where, _ in violations(broken)} == {"/after", "/last-event-id"}


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/event-stream;q=0, */*"])
async def test_who_does_not_ask_for_a_stream_gets_a_page(http, accept):
    answer = await http.get("/events", headers={"Accept": accept})
    assert answer.headers["content-type"] == "application/json"


async def test_the_head_of_a_stream_has_an_end(http):
    answer = await http.head("/events", headers={"Accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")


async def test_purged_events_are_no_obstacle(gateway, store):
    start = await store.stream_version("$all")
    gone = uuid4()
    async with Listener.at(gateway.port, "/events") as listener:
        await listener.line()
        with_gap = [await store.append(happened(stream, 2)) for stream in (uuid4(), gone, uuid4())]
        assert len(await listener.events(6)) == 6
        await store.delete_stream(str(gone), hard=True)
        after = await store.append(happened(uuid4(), 1))
        assert [number for number, _, _ in await listener.events(1)] == [after.first_position]
    kept = [first.first_position + n for first in (with_gap[0], with_gap[2]) for n in range(2)]
    async with Listener.at(gateway.port, f"/events?after={start}") as late:
        assert [number for number, _, _ in await late.events(5)] == [*kept, after.first_position]


async def test_a_listener_that_is_too_slow_is_dropped_alone_and_resumes_without_a_gap(
    gateway, store, http, monkeypatch
):
    monkeypatch.setattr("api.live.BACKLOG", 16)
    monkeypatch.setattr("api.live._PAGE", 4)
    head = await store.stream_version("$all")
    total = 120

    async def dropped() -> float:
        return metric((await http.get("/metrics")).text, "waybill_live_dropped_total")

    before = await dropped()
    async with Listener.at(gateway.port, "/events") as slow, Listener.at(gateway.port, "/events") as quick:
        for n in range(total):
            await store.append(happened(uuid4(), 1, size=200_000))
            assert (await quick.event())[0] == head + n + 1
        told = [number for number, _, _ in await slow.rest()]
        assert "too slow" in slow.lines[-1]
        assert 0 < len(told) < total
        assert await dropped() == before + 1
    async with Listener.at(gateway.port, "/events", Last_Event_ID=slow.last_id) as resumed:
        told += [number for number, _, _ in await resumed.events(total - len(told))]
    assert told == list(range(head + 1, head + total + 1))


async def test_a_client_that_goes_is_noticed(gateway, http):
    async def listeners() -> float:
        return metric((await http.get("/metrics")).text, "waybill_live_listeners")

    async with AsyncExitStack() as clients:
        for _ in range(20):
            listener = await clients.enter_async_context(Listener.at(gateway.port, "/events"))
            assert await listener.line()
        assert await listeners() == 20
        tasks = len(asyncio.all_tasks())

    async def gone() -> bool:
        return await listeners() == 0

    await eventually(gone)
    assert len(asyncio.all_tasks()) <= tasks - 20


async def test_any_number_of_listeners_cost_one_reader(gateway, store, settings):
    reads = 0

    async def count(real, *_):
        nonlocal reads
        reads += 1
        return await real()

    async with AsyncExitStack() as clients:
        enter = clients.enter_async_context
        listeners = [await enter(Listener.at(gateway.port, "/events")) for _ in range(100)]
        for listener in listeners:
            await listener.line()
        await store.append(happened(uuid4(), 1))
        for listener in listeners:
            await listener.event()
        with interposed(gateway.app.state.gateway.store, "read_all", count):
            for _ in range(10):
                await store.append(happened(uuid4(), 1))
                for listener in listeners:
                    await listener.event()
        async with store._pool.acquire() as connection:
            database = settings.event_store_url.rpartition("/")[2].partition("?")[0]
            sql = "select count(*) from pg_stat_activity where datname = $1 and query ilike 'listen %public.events%'"
            listening = await connection.fetchval(sql, database)
    # One for each event, one for each notification that came for nothing; not one for each listener.
    assert 10 <= reads < 60
    assert listening <= 1


async def test_without_listeners_nothing_is_read(gateway, store):
    async def fail(*_):
        raise AssertionError("nobody wanted it")

    live = gateway.app.state.gateway.live
    await eventually(lambda: not live._present)
    with interposed(gateway.app.state.gateway.store, "read_all", fail):
        await store.append(happened(uuid4(), 1))
        await live._read_on()
    async with Listener.at(gateway.port, "/events") as listener:
        await listener.line()
        after = await store.append(happened(uuid4(), 1))
        assert [number for number, _, _ in await listener.events(1)] == [after.first_position]


async def test_streams_stay_open_while_the_database_is_away_and_go_on_when_it_is_back(private_postgres):
    async with (
        private_postgres.empty(eventstore.migrate.migrate) as event_store_url,
        private_postgres.empty(projections.migrate.migrate) as read_store_url,
        serving(Settings(event_store_url=event_store_url, read_store_url=read_store_url)) as gateway,
        AsyncExitStack() as clients,
    ):
        async with PostgresStore.open(event_store_url, 1) as store:
            early = await clients.enter_async_context(Listener.at(gateway.port, "/events"))
            await store.append(happened(uuid4(), 2))
            assert len(await early.events(2)) == 2
        await private_postgres.kill()
        # One that resumes needs no database to be let in; one that wants to know where "now" is does.
        late = await clients.enter_async_context(Listener.at(gateway.port, "/events", Last_Event_ID="1"))
        now = await clients.enter_async_context(Listener.at(gateway.port, "/events"))
        assert (late.status, now.status) == (200, 503)
        await late.until("id: 1")
        await private_postgres.start()
        async with PostgresStore.open(event_store_url, 1) as store:
            await store.append(happened(uuid4(), 3))
        assert [number for number, _, _ in await early.events(3)] == [3, 4, 5]
        assert [number for number, _, _ in await late.events(4)] == [2, 3, 4, 5]


async def test_a_gateway_that_stops_ends_its_streams_first(settings, store):
    head = (await store.append(happened(uuid4(), 1))).first_position
    async with AsyncExitStack() as clients:
        async with serving(settings) as gateway:
            enter = clients.enter_async_context
            paths = ("/events", f"/events?after={head - 1}")
            listeners = [await enter(Listener.at(gateway.port, path)) for path in paths]
            appended = await store.append(happened(uuid4(), 1))
            while (await listeners[0].event())[0] != appended.first_position:
                pass
        # What is cut off by force ends without the mark of the end.
        for listener in listeners:
            await listener.rest()


async def test_a_key_that_is_dropped_ends_its_streams_with_the_restart_that_drops_it(settings):
    (key, kept), (_, other) = (generate("desk", "read") for _ in range(2))
    bearer = {"Authorization": f"Bearer {key}"}
    async with AsyncExitStack() as clients:
        async with serving(settings.model_copy(update={"api_keys": (kept, other)})) as gateway:
            listener = await clients.enter_async_context(Listener.at(gateway.port, "/events", **bearer))
            assert listener.head.startswith("HTTP/1.1 200 ")
        await listener.rest()
    async with (
        serving(settings.model_copy(update={"api_keys": (other,)})) as gateway,
        Listener.at(gateway.port, "/events", **bearer) as refused,
    ):
        assert refused.head.startswith("HTTP/1.1 401 ")
