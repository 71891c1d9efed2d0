"""The handler `aggregate_deletion`: deleted orders are removed for good, once everybody has seen that."""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from structlog.testing import capture_logs

from databases import Databases
from domain.commands import Receipt
from domain.order import OrderCompleted, OrderDeleted
from eventstore.codec import encode
from eventstore.migrate import migrate
from eventstore.pool import open_pool
from eventstore.postgres import PostgresStore
from eventstore.reader import SQL
from eventstore.store import Append, NewEvent, RecordedEvent
from handling import handled_up_to_now, handling, happen, nothing_parked, states
from projecting import append_all, caught_up, created, projecting, rows
from projections import builds, parking
from projections.handlers import driver
from projections.handlers.aggregate_deletion import NAME, Purge, aggregate_deletion
from projections.handlers.handler import NotDone
from projections.handlers.stream_linker import ORDERS_STREAM, stream_linker
from projections.orders import ORDERS
from projections.parking import Parking
from support import eventually


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_FIRST_PAUSE", 0.05)
    monkeypatch.setattr(driver, "_LONGEST_PAUSE", 0.2)


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url, 4) as store:
        yield store


@pytest.fixture
async def views(read_store_url: str) -> AsyncGenerator["asyncpg.Pool[asyncpg.Record]"]:
    """A read store whose projections have seen whatever there is."""
    async with open_pool(read_store_url, 1) as pool:
        await pool.execute("update projection_versions set last_seen_event_number = 1000")
        yield pool


def purging(store: PostgresStore, views):
    return handling(store, aggregate_deletion(store, views, ripe_after=0))


async def deleted_order(store: PostgresStore) -> UUID:
    order_id = uuid4()
    await append_all(store, [(str(order_id), created(order_id)), (str(order_id), OrderDeleted(id=order_id))])
    return order_id


async def is_gone(store: PostgresStore, order_id: UUID) -> bool:
    return await store.stream_info(str(order_id)) is None


async def waits_for(store: PostgresStore) -> str | None:
    found = await parking.listed([store.pool], NAME, limit=2)
    return found[0].reason if found else None


async def is_waited_for(beginning: "asyncpg.Connection[asyncpg.Record]") -> bool:
    return bool(await beginning.fetchval("select true from pg_locks where locktype = 'advisory' and not granted"))


async def test_nothing_is_removed_while_a_build_begins(store: PostgresStore, views, read_store_url: str) -> None:
    order_id = await deleted_order(store)
    beginning = await asyncpg.connect(read_store_url)
    begun = beginning.transaction()
    await begun.start()
    await builds.rebuild(beginning, ORDERS)
    async with purging(store, views):
        await eventually(partial(is_waited_for, beginning))
        assert not await is_gone(store, order_id)
        await begun.commit()

        async def it_waits_for_the_build() -> bool:
            return await waits_for(store) == "the projection orders_next has not seen all of it yet"

        await eventually(it_waits_for_the_build)
        assert not await is_gone(store, order_id)
    await beginning.close()


async def test_nothing_is_removed_while_a_subscription_begins(
    store: PostgresStore, views, event_store_url: str
) -> None:
    order_id = await deleted_order(store)
    beginning = await asyncpg.connect(event_store_url)
    begun = beginning.transaction()
    await begun.start()
    await beginning.execute(SQL["nothing_is_purged"])
    assert await beginning.fetchval(SQL["subscribe"], "$all", "late", 0)

    async with purging(store, views):
        await eventually(partial(is_waited_for, beginning))
        assert not await is_gone(store, order_id)
        await begun.commit()

        async def it_waits_for_the_subscription() -> bool:
            return await waits_for(store) == "the subscription late to $all has not seen all of it yet"

        await eventually(it_waits_for_the_subscription)
        async with store.subscribe("late") as late:
            seen = await anext(late)
            assert [event.type for event in seen] == ["Order.OrderCreated", "Order.OrderDeleted"]
            await late.ack(seen[-1])
        await eventually(lambda: is_gone(store, order_id))
    await beginning.close()


async def test_no_subscription_begins_while_streams_are_removed_but_those_that_have_begun_go_on(
    store: PostgresStore,
) -> None:
    await happen(store, "apples", "Picked")
    async with store.subscribe("known"):
        pass

    async def begin(name: str) -> int:
        async with store.subscribe(name) as subscription:
            return len(await anext(subscription))

    async with store.no_subscription_begins():
        late = asyncio.ensure_future(begin("late"))
        assert await asyncio.wait_for(begin("known"), 10) == 1
        done, _ = await asyncio.wait([late], timeout=0.5)
        assert not done
    assert await asyncio.wait_for(late, 10) == 1


@pytest.mark.parametrize("where", ["event store", "read store"])
async def test_nothing_more_is_removed_when_others_may_begin_again(
    store: PostgresStore, views, event_store_url: str, read_store_url: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [await deleted_order(store) for _ in range(3)]
    deletions = await store.read_all(types=["Order.OrderDeleted"])
    purge = Purge(store, views)
    first = purge._purge

    async def purge_and_lose_the_lock(deleted: RecordedEvent) -> NotDone | None:
        outcome = await first(deleted)
        other = await asyncpg.connect(event_store_url if where == "event store" else read_store_url)
        assert await other.fetchval(
            "select bool_and(pg_terminate_backend(pid)) from pg_locks join pg_database on oid = database"
            " where locktype = 'advisory' and granted and datname = current_database()"
        )
        await other.close()
        return outcome

    monkeypatch.setattr(purge, "_purge", purge_and_lose_the_lock)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError)):
        await purge.handle(deletions)
    assert [await is_gone(store, order_id) for order_id in orders] == [True, False, False]


async def test_a_deleted_order_is_removed_and_others_stay(store: PostgresStore, views) -> None:
    stays = uuid4()
    await append_all(store, [(str(stays), created(stays))])
    order_id = await deleted_order(store)
    async with purging(store, views):
        await eventually(lambda: is_gone(store, order_id))
        await handled_up_to_now(store, NAME)
    assert [event.stream_id for event in await store.read_all()] == [str(stays)]
    assert await nothing_parked(store, NAME)


@pytest.mark.parametrize("stream", ["$all", "its own", ORDERS_STREAM])
async def test_it_waits_until_a_slow_subscription_has_seen_the_deletion(
    store: PostgresStore, views, stream: str
) -> None:
    order_id = await deleted_order(store)
    stream = str(order_id) if stream == "its own" else stream
    async with handling(store, stream_linker(store)):
        await handled_up_to_now(store, "stream_linker")
    async with store.subscribe("slow", stream_id=stream, batch=1) as slow, purging(store, views):
        first, last = await anext(slow), await anext(slow)
        await slow.ack(first[-1])

        async def it_is_the_slow_one() -> bool:
            return await waits_for(store) == f"the subscription slow to {stream} has not seen all of it yet"

        await eventually(it_is_the_slow_one)
        assert not await is_gone(store, order_id)
        await slow.ack(last[-1])
        await eventually(lambda: is_gone(store, order_id))


async def test_it_waits_until_the_projections_have_seen_the_deletion(
    store: PostgresStore, event_store_url: str, read_store_url: str
) -> None:
    order_id = uuid4()
    await append_all(store, [(str(order_id), created(order_id))])
    async with projecting(store, event_store_url, read_store_url):
        await caught_up(store, read_store_url)
    await append_all(store, [(str(order_id), OrderDeleted(id=order_id))])
    async with open_pool(read_store_url, 1) as views, purging(store, views):
        await eventually(lambda: waits_for(store))
        assert not await is_gone(store, order_id)
        async with projecting(store, event_store_url, read_store_url):
            await eventually(lambda: is_gone(store, order_id))
    assert await rows(read_store_url, "select * from orders") == []


@pytest.mark.parametrize("where", ["event store", "read store"])
async def test_it_waits_for_what_is_parked_of_the_stream(store: PostgresStore, views, where: str) -> None:
    order_id = await deleted_order(store)
    first, _ = await store.read_all()
    place = views if where == "read store" else store.pool
    await parking.park(place, "orders", [Parking(first, "failed", "a bug", 5)])
    async with purging(store, views):
        await eventually(lambda: waits_for(store))
        assert not await is_gone(store, order_id)
        await parking.done(place, "orders", [first.position])
        await eventually(lambda: is_gone(store, order_id))


async def test_what_is_no_deleted_order_any_more_is_left_alone(store: PostgresStore, views) -> None:
    revived, shipped = uuid4(), uuid4()
    for event in (created(revived), OrderDeleted(id=revived), created(revived)):
        await append_all(store, [(str(revived), event)])
    for event in (created(shipped), OrderCompleted(id=shipped), OrderDeleted(id=shipped)):
        await append_all(store, [(str(shipped), event)])
    with capture_logs() as logs:
        async with purging(store, views):
            await handled_up_to_now(store, NAME)
    assert len(await store.read_all()) == 6
    told = [entry["stream_id"] for entry in logs if entry["event"] == "deletion.passed_over"]
    assert told == [str(revived), str(shipped)]


async def test_a_closed_stream_is_removed_too(store: PostgresStore, views) -> None:
    order_id = await deleted_order(store)
    await store.delete_stream(str(order_id))
    async with purging(store, views):
        await eventually(lambda: is_gone(store, order_id))


async def test_what_another_program_says_of_its_commands_keeps_nobody(store: PostgresStore, views) -> None:
    order_id = uuid4()
    odd = [b"null", b"\xff", b'{"fingerprint": "f"}', b'{"fingerprint": "f", "command_id": 7}']
    new = [NewEvent(uuid4(), "Order.OrderCreated", b"{}", metadata) for metadata in odd]
    await store.append(Append(str(order_id), "any", new))
    await happen(store, order_id, "Order.OrderDeleted")
    async with purging(store, views):
        await eventually(lambda: is_gone(store, order_id))


async def test_the_answers_to_keyed_commands_outlive_the_order(store: PostgresStore, views) -> None:
    order_id, keyed, keyless = uuid4(), uuid4(), uuid4()
    about = [{"command_id": str(keyless), "fingerprint": ""}, {"command_id": str(keyed), "fingerprint": "f"}]
    events = [encode(created(order_id)), encode(OrderDeleted(id=order_id))]
    new = [NewEvent(uuid4(), *event, orjson.dumps(each)) for event, each in zip(events, about, strict=True)]
    await store.append(Append(str(order_id), "any", new))
    async with purging(store, views):
        await eventually(lambda: is_gone(store, order_id))
    answer = (await store.recall(keyed, uuid4())).answer
    assert answer
    receipt = Receipt.model_validate_json(orjson.dumps(orjson.loads(answer.outcome)["receipt"]))
    assert (answer.fingerprint, receipt.event_id) == ("f", new[1].event_id)
    assert (receipt.order_number, receipt.status, receipt.version, receipt.position) == ("A-1", "DELETED", 2, 2)
    assert (await store.recall(keyless, uuid4())).answer is None


async def test_who_may_not_remove_streams_says_so_once_and_waits(databases: Databases, views) -> None:
    async with databases.empty() as url:
        parts = urlsplit(url)
        admin_login = urlsplit(databases.admin_url).netloc.rpartition("@")[0]
        admin = parts._replace(netloc=f"{admin_login}@{parts.netloc.rpartition('@')[2]}").geturl()
        await migrate(admin)
        async with open_pool(admin, 1) as pool:
            await pool.execute("create role clerk login password 'clerk' in role waybill_writer, waybill_projector;")
        try:
            clerk = parts._replace(netloc=f"clerk:clerk@{parts.netloc.rpartition('@')[2]}").geturl()
            async with PostgresStore.open(clerk, 3) as store:
                first, second = await deleted_order(store), await deleted_order(store)
                with capture_logs() as logs:
                    async with purging(store, views):
                        await eventually(lambda: waits_for(store))

                        async def both_were_looked_at_again() -> bool:
                            return all(each.attempts > 1 for each in await parking.listed([store.pool], NAME, limit=3))

                        await eventually(both_were_looked_at_again)
                assert "waybill_owner" in (await waits_for(store) or "")
                assert list((await states(store, NAME)).values()) == ["waiting", "waiting"]
                assert [entry["event"] for entry in logs].count("deletion.refused") == 1
                assert not await is_gone(store, first)
                assert not await is_gone(store, second)
        finally:
            async with open_pool(admin, 1) as pool:
                await pool.execute("drop owned by clerk; drop role clerk")
