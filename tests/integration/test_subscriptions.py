"""Subscriptions in PostgreSQL: sessions that are lost, checkpoints that others move, a table that is shared."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import cast

import asyncpg
import pytest
from structlog.testing import capture_logs

from databases import PrivateServer
from eventstore import subscriptions
from eventstore.migrate import migrate
from eventstore.postgres import PostgresStore
from eventstore.store import SubscriptionLost
from tests.contract.appends import APPLES, append, events, numbers
from tests.contract.subscribing import PATIENCE, run_through, taken
from tests.support import eventually

# As the original asks for it.
TRY_LOCK = "select pg_try_advisory_lock('public.subscriptions'::regclass::oid::int, $1)"
OWNER = """
select pid from pg_locks
where locktype = 'advisory' and classid = 'public.subscriptions'::regclass and objid = $1
  and database = (select oid from pg_database where datname = current_database()) and granted
"""


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url) as store:
        yield store


@pytest.fixture
async def other(event_store_url: str) -> AsyncGenerator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of another program."""
    connection = await asyncpg.connect(event_store_url)
    yield connection
    await connection.close()


async def number(other: "asyncpg.Connection[asyncpg.Record]", name: str = "counter") -> int:
    return await other.fetchval(
        "select subscription_id from public.subscriptions where subscription_name = $1 and stream_uuid = '$all'", name
    )


async def kill_owner(other: "asyncpg.Connection[asyncpg.Record]") -> None:
    """End the session of the subscription's owner, as an administrator or a failover does."""
    owner = await other.fetchval(OWNER, await number(other))
    assert await other.fetchval("select pg_terminate_backend($1)", owner)

    async def gone() -> bool:
        return await other.fetchval("select not exists (select from pg_stat_activity where pid = $1)", owner)

    await eventually(gone)


# --- A lost session


async def test_an_owner_whose_session_is_lost_acknowledges_nothing_any_more(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(store, APPLES, *events(3))
    async with store.subscribe("counter", batch=1) as subscription:
        seen = await taken(subscription, 1, ack=False)
        await kill_owner(other)
        with pytest.raises(SubscriptionLost):
            await subscription.ack(seen[-1])
        with pytest.raises(SubscriptionLost):
            await anext(subscription)
    assert await run_through(store, "counter", 3) == [1, 2, 3]


async def test_an_owner_that_waits_hears_at_once_that_its_session_is_lost(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store.subscribe("counter") as subscription:
        monkeypatch.setattr(subscriptions, "POLL", 3600)
        waiting = asyncio.ensure_future(anext(subscription))
        await kill_owner(other)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(SubscriptionLost):
                await waiting


async def test_an_owner_that_can_not_say_that_it_lives_gives_up_at_once(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "HEARTBEAT", 0.02)
    async with store.subscribe("counter") as subscription:
        # Whoever waits for it would take ten seconds to find out.
        monkeypatch.setattr(subscriptions, "SILENCE", 3600)
        with capture_logs() as log:
            waiting = asyncio.ensure_future(anext(subscription))
            monkeypatch.setitem(cast("dict[str, str]", subscriptions.SQL), "sign_of_life", "select 1 / 0")
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(SubscriptionLost):
                    await waiting
        assert {"event": "subscription.fell_silent", "reason": "DivisionByZeroError", "log_level": "warning"} in log
        monkeypatch.undo()
        await append(store, APPLES, *events(1))
        async with asyncio.timeout(PATIENCE):
            assert await run_through(store, "counter", 1) == [1]


async def test_another_takes_over_from_an_owner_whose_session_is_lost(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(store, APPLES, *events(4))
    async with store.subscribe("counter", batch=2) as first:
        second = asyncio.ensure_future(run_through(store, "counter", 2))
        await taken(first, 2)
        late = await taken(first, 2, ack=False)
        await kill_owner(other)
        async with asyncio.timeout(PATIENCE):
            assert await second == [3, 4]
        with pytest.raises(SubscriptionLost):
            await first.ack(late[-1])
    assert await other.fetchval("select last_seen from public.subscriptions") == 4


async def test_whoever_is_killed_no_event_is_skipped_and_none_is_acknowledged_twice(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    delivered: set[int] = set()
    acknowledged: list[int] = []

    async def own() -> None:
        while True:
            with suppress(SubscriptionLost):
                async with store.subscribe("counter", batch=3) as subscription:
                    async for batch in subscription:
                        delivered.update(numbers(batch))
                        await subscription.ack(batch[-1])
                        acknowledged.extend(numbers(batch))

    async def checkpoint() -> int | None:
        return await other.fetchval("select last_seen from public.subscriptions")

    owners = asyncio.gather(own(), own())
    for turn in range(1, 7):
        await append(store, APPLES, *events(10))
        await eventually(lambda turn=turn: len(delivered) > 10 * turn - 7)
        await other.execute(f"select pg_terminate_backend(pid) from ({OWNER}) as owner", await number(other))

    async def done() -> bool:
        return await checkpoint() == 60

    await eventually(done)
    owners.cancel()
    await asyncio.wait([owners])
    assert delivered == set(range(1, 61))
    # An answer may get lost with its session: then the checkpoint has moved, and the owner does not know.
    assert acknowledged == sorted(set(acknowledged))


async def test_who_waits_for_its_turn_hears_that_its_own_session_is_lost(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with store.subscribe("counter"):
        waiting = asyncio.ensure_future(run_through(store, "counter", 1))

        async def session() -> int | None:
            return await other.fetchval(
                "select pid from pg_stat_activity where datname = current_database() and query like '%try_advisory%'"
                " and pid <> pg_backend_pid() and pid <> $1",
                await other.fetchval(OWNER, await number(other)),
            )

        await other.fetchval("select pg_terminate_backend($1)", await eventually(session))
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(SubscriptionLost):
                await waiting


async def test_a_subscription_can_not_be_had_while_the_database_is_away(private_postgres: PrivateServer) -> None:
    async with private_postgres.empty(migrate) as url, PostgresStore.open(url) as store:
        await append(store, APPLES)
        await private_postgres.kill()
        with pytest.raises(SubscriptionLost):
            await run_through(store, "counter", 1)
        await private_postgres.start()
        assert await run_through(store, "counter", 1) == [1]


# --- An owner that is silent


async def test_an_owner_that_says_nothing_any_more_loses_its_place_to_who_waits(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "HEARTBEAT", 3600)
    monkeypatch.setattr(subscriptions, "SILENCE", 0.5)
    await append(store, APPLES, *events(4))
    async with store.subscribe("counter", batch=2) as first:
        await taken(first, 2)
        late = await taken(first, 2, ack=False)
        with capture_logs() as logs:
            async with asyncio.timeout(PATIENCE):
                assert await run_through(store, "counter", 2) == [3, 4]
        with pytest.raises(SubscriptionLost):
            await first.ack(late[-1])
        with pytest.raises(SubscriptionLost):
            await first.session.execute("select")
    assert {"event": "subscription.displaced", "name": "counter", "log_level": "warning"} in logs


async def test_an_owner_that_is_busy_for_long_keeps_its_place(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "HEARTBEAT", 0.1)
    monkeypatch.setattr(subscriptions, "SILENCE", 2)
    await append(store, APPLES, *events(2))
    async with store.subscribe("counter") as first:
        seen = await taken(first, 2, ack=False)
        second = asyncio.ensure_future(run_through(store, "counter", 0))
        # It looks at the beginning, and every second.
        done, _ = await asyncio.wait([second], timeout=4.5)
        assert not done
        await first.ack(seen[-1])
    async with asyncio.timeout(PATIENCE):
        await second


async def test_an_owner_of_another_program_has_promised_nothing_and_keeps_its_place(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "SILENCE", 0.1)
    async with store.subscribe("counter"):
        pass
    assert await other.fetchval(TRY_LOCK, await number(other))
    ours = asyncio.ensure_future(run_through(store, "counter", 0))
    done, _ = await asyncio.wait([ours], timeout=1)
    assert not done
    await other.fetchval("select pg_advisory_unlock_all()")
    async with asyncio.timeout(PATIENCE):
        await ours


# --- A checkpoint that somebody else moves


@pytest.mark.parametrize(
    "interference",
    ["update public.subscriptions set last_seen = 2", "delete from public.subscriptions"],
    ids=["moved", "removed"],
)
async def test_an_owner_stops_when_the_checkpoint_is_not_where_it_left_it(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]", interference: str
) -> None:
    await append(store, APPLES, *events(3))
    async with store.subscribe("counter") as subscription:
        seen = await taken(subscription, 3, ack=False)
        await subscription.ack(seen[0])
        await other.execute(interference)
        with pytest.raises(SubscriptionLost):
            await subscription.ack(seen[2])
        assert subscription.checkpoint == 1


# --- What is shared with the original


async def test_the_row_is_what_the_original_expects(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(store, APPLES, *events(3))
    assert await run_through(store, "counter", 3) == [1, 2, 3]
    async with store.subscribe("linker", stream_id=APPLES, start="current"):
        pass
    rows = await other.fetch("select stream_uuid, subscription_name, last_seen from public.subscriptions order by 1")
    assert [tuple(row) for row in rows] == [("$all", "counter", 3), (APPLES, "linker", 3)]


async def test_a_subscription_of_the_original_is_owned_by_one_of_the_two(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(store, APPLES, *events(2))
    theirs = await other.fetchval(
        "insert into public.subscriptions (stream_uuid, subscription_name, last_seen) values ('$all', 'counter', 1)"
        " returning subscription_id"
    )
    assert await other.fetchval(TRY_LOCK, theirs)
    ours = asyncio.ensure_future(run_through(store, "counter", 1))
    done, _ = await asyncio.wait([ours], timeout=0.3)
    assert not done
    await other.fetchval("select pg_advisory_unlock_all()")
    async with asyncio.timeout(PATIENCE):
        assert await ours == [2]
    async with store.subscribe("counter"):
        assert not await other.fetchval(TRY_LOCK, theirs)


async def test_large_subscription_numbers_are_folded_into_the_key_as_the_original_does(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await other.execute(
        "insert into public.subscriptions (subscription_id, stream_uuid, subscription_name, last_seen)"
        " values (2147483647::bigint * 3 + 5, '$all', 'counter', 0)"
    )
    async with store.subscribe("counter"):
        assert not await other.fetchval(TRY_LOCK, 5)


async def test_a_checkpoint_that_was_never_set_is_before_the_first_event(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(store, APPLES, *events(2))
    await other.execute("insert into public.subscriptions (stream_uuid, subscription_name) values ('$all', 'counter')")
    assert await run_through(store, "counter", 2) == [1, 2]
    assert await other.fetchval("select last_seen from public.subscriptions") == 2


async def test_subscribers_that_come_at_once_enter_one_row(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await append(store, APPLES)
    async with asyncio.timeout(PATIENCE):
        seen = await asyncio.gather(*(_first_or_nothing(store) for _ in range(4)))
    assert sorted(seen) == [0, 0, 0, 1]
    assert await other.fetchval("select count(*) from public.subscriptions") == 1


async def _first_or_nothing(store: PostgresStore) -> int:
    """How many events this owner has acknowledged: one, if it is the first."""
    async with store.subscribe("counter") as subscription:
        return 0 if subscription.checkpoint else len(await taken(subscription, 1))


# --- Hints and truth


@pytest.mark.parametrize("stream_id", ["$all", APPLES])
async def test_a_notification_wakes_an_owner_that_waits(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch, stream_id: str
) -> None:
    async with store.subscribe("counter", stream_id=stream_id) as subscription:
        monkeypatch.setattr(subscriptions, "POLL", 3600)
        waiting = asyncio.ensure_future(taken(subscription, 1))
        await asyncio.sleep(0)
        await append(store, APPLES)
        assert numbers(await waiting) == [1]


async def test_events_that_no_notification_told_of_are_found_too(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await other.execute("alter table public.streams disable trigger event_notification")
    async with store.subscribe("counter") as subscription:
        waiting = asyncio.ensure_future(taken(subscription, 1))
        await asyncio.sleep(0)
        await append(store, APPLES)
        assert numbers(await waiting) == [1]


async def test_the_session_does_not_hold_up_the_cleaning_of_tables(
    store: PostgresStore, other: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with store.subscribe("counter"):
        second = asyncio.ensure_future(run_through(store, "counter", 1))

        async def idle() -> bool:
            busy = "select count(*) from pg_stat_activity where backend_xmin is not null and pid <> pg_backend_pid()"
            sessions = await other.fetchval("select count(*) from pg_stat_activity where query like '%try_advisory%'")
            return sessions >= 2 and not await other.fetchval(f"{busy} and datname = current_database()")

        await eventually(idle)
        second.cancel()
        await asyncio.wait([second])
