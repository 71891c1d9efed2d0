"""Locks that somebody else holds: they hold up the appends that need them, and no others."""

import asyncio
from collections.abc import AsyncGenerator
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from appending import PATIENCE, Connection, begun, counted, held_up, locked, set_aside, settled, waiting_backend
from eventstore import appender
from eventstore.postgres import PostgresStore
from eventstore.store import (
    Appended,
    Claim,
    WrongExpectedVersion,
)
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers
from tests.support import eventually


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    async with PostgresStore.open(event_store_url) as store:
        yield store


@pytest.fixture
async def other(event_store_url: str) -> AsyncGenerator[Connection]:
    connection = await asyncpg.connect(event_store_url)
    yield connection
    await connection.close()


# --- Somebody holds locks


@pytest.mark.parametrize("company", [0, 12], ids=["alone", "in a batch"])
async def test_a_stream_that_somebody_holds_locked_holds_up_no_other(
    store: PostgresStore, other: Connection, company: int
) -> None:
    await append(store, APPLES)
    async with locked(other, APPLES):
        tasks = [begun(store, f"before-{turn}") for turn in range(company)]
        held = begun(store, APPLES)
        tasks += [begun(store, f"behind-{turn}") for turn in range(company)]
        await waiting_backend(other)
        assert {type(outcome) for outcome in await settled(*tasks, begun(store, PEARS))} == {Appended}
        await set_aside(store)
        for turn in range(50):
            assert [type(outcome) for outcome in await settled(begun(store, f"later-{turn}"))] == [Appended]
        assert not held.done()
    assert [getattr(outcome, "first_version", None) for outcome in await settled(held)] == [2]
    assert await store.stream_version("$all") == 1 + 2 * company + 1 + 50 + 1


async def test_streams_that_somebody_holds_locked_hold_up_no_others(store: PostgresStore, other: Connection) -> None:
    names = [f"stream-{turn}" for turn in range(20)]
    await settled(*(begun(store, name) for name in names))
    held, free = names[::4], [name for name in names if name not in names[::4]]
    async with locked(other, *held):
        waiting = [begun(store, name) for name in held]
        outcomes = await settled(*(begun(store, name) for name in free))
        assert {getattr(outcome, "first_version", None) for outcome in outcomes} == {2}
        await set_aside(store, len(held))
    assert {getattr(outcome, "first_version", None) for outcome in await settled(*waiting)} == {2}


async def test_a_stream_that_somebody_is_creating_holds_up_no_other(store: PostgresStore, other: Connection) -> None:
    transaction = other.transaction()
    await transaction.start()
    await other.execute("insert into public.streams (stream_uuid) values ($1)", APPLES)
    tasks = [begun(store, name, expected="no_stream") for name in (PEARS, APPLES, "plums")]
    pears, plums = await settled(tasks[0], tasks[2])
    assert (type(pears), type(plums)) == (Appended, Appended)
    await transaction.commit()
    assert [type(outcome) for outcome in await settled(tasks[1])] == [WrongExpectedVersion]


async def test_a_stream_that_somebody_holds_locked_is_given_up_in_the_end(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_PATIENCE", 3)
    await append(store, APPLES)
    two = events(2)
    with capture_logs() as said:
        failed = counted("failed")
        async with locked(other, APPLES):
            tasks = [begun(store, APPLES, *two), begun(store, PEARS), begun(store, APPLES)]
            first, neighbour, follower = await settled(*tasks)
    assert counted("failed") - failed == 2
    assert [type(outcome) for outcome in (first, neighbour, follower)] == [TimeoutError, Appended, TimeoutError]
    assert APPLES in str(first)
    # Tried again and again, but told once.
    assert [(line["event"], line["stream_id"]) for line in said] == [("append.held_up", APPLES)]
    assert numbers(await store.read_stream(APPLES)) == [1]
    assert (await append(store, APPLES, *two)).first_version == 2
    assert not store.appender._aside


async def test_appends_to_a_stream_that_somebody_holds_locked_keep_their_order(
    store: PostgresStore, other: Connection
) -> None:
    await append(store, APPLES)
    claim = Claim("order_number", "A-1", uuid4())
    await store.reserve(claim, uuid4(), lease_seconds=3600)
    known = event()
    async with locked(other, APPLES):
        tasks = [begun(store, APPLES, known, confirm=[claim]), begun(store, APPLES, expected=2), begun(store, PEARS)]
        await set_aside(store, 2)
        # The third names the claim, and finds what the first will have made of it.
        tasks += [begun(store, APPLES, expected=3), begun(store, APPLES, known), begun(store, PEARS, release=[claim])]
        tasks += [begun(store, APPLES), begun(store, "plums")]
        assert [getattr(each, "first_version", None) for each in await settled(tasks[2], tasks[-1])] == [1, 1]
        assert sum(task.done() for task in tasks) == 2
    outcomes = await settled(*tasks)
    assert [getattr(outcome, "first_version", None) for outcome in outcomes] == [2, 3, 1, 4, 2, 2, 5, 1]
    assert [getattr(outcome, "repeated", None) for outcome in outcomes] == [turn == 4 for turn in range(8)]
    assert await store.claim_owner("order_number", "A-1") is None


async def test_who_gives_up_beside_a_lock_leaves_nothing_and_lets_those_behind_go_on(
    store: PostgresStore, other: Connection
) -> None:
    await append(store, APPLES)
    new = events(2)
    async with locked(other, APPLES):
        first, second, third = (begun(store, APPLES, *each) for each in (new, events(1), events(1)))
        await set_aside(store, 3)
        first.cancel()
        third.cancel()
        await asyncio.wait([first, third])
        await set_aside(store, 1)
        later = begun(store, APPLES)
        await set_aside(store, 2)
    outcomes = await settled(first, second, third, later)
    assert [type(each) for each in outcomes] == [asyncio.CancelledError, Appended, asyncio.CancelledError, Appended]
    read = await store.read_stream(APPLES)
    assert numbers(read) == [1, 2, 3]
    assert not set(ids(read)) & set(ids(new))
    assert (store.appender._waiting, store.appender._waiting_bytes) == (0, 0)


async def test_appends_beside_a_lock_outlive_their_connection(store: PostgresStore, other: Connection) -> None:
    await append(store, APPLES)
    async with locked(other, APPLES):
        held = begun(store, APPLES)
        await set_aside(store)
        await other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and query like '%waybill.append%' and pid <> pg_backend_pid()"
        )
        assert [type(outcome) for outcome in await settled(begun(store, PEARS))] == [Appended]
    assert [getattr(outcome, "first_version", None) for outcome in await settled(held)] == [2]


async def test_a_stream_that_somebody_holds_locked_is_written_to_before_the_store_closes(
    event_store_url: str, other: Connection
) -> None:
    async with PostgresStore.open(event_store_url) as store:
        await append(store, APPLES)
        transaction = other.transaction()
        await transaction.start()
        await other.execute("select from public.streams where stream_uuid = $1 for update", APPLES)
        held = begun(store, APPLES)
        await set_aside(store)
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, transaction.rollback())
    assert [getattr(outcome, "first_version", None) for outcome in await settled(held)] == [2]


async def test_all_wait_while_somebody_holds_the_global_sequence_and_none_is_lost(
    store: PostgresStore, other: Connection
) -> None:
    async with held_up(other):
        tasks = [begun(store, f"stream-{turn % 4}") for turn in range(8)]
        # As long as it takes until an append alone has waited in vain, too.
        await eventually(lambda: store.appender._aside, within=PATIENCE)
        tasks += [begun(store, f"stream-{turn % 4}") for turn in range(8)]
        await waiting_backend(other)
        assert not any(task.done() for task in tasks)
    outcomes = await settled(*tasks)
    assert [getattr(each, "first_version", None) for each in outcomes] == [turn // 4 + 1 for turn in range(16)]
    assert numbers(await store.read_all()) == list(range(1, 17))


async def test_all_are_given_up_in_time_while_somebody_holds_the_global_sequence(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_PATIENCE", 2)
    async with held_up(other):
        # One after the other they would wait for a tenth of a second each, and twice that many halves.
        outcomes = await settled(*(begun(store, f"stream-{turn}") for turn in range(500)))
        assert {type(outcome) for outcome in outcomes} == {TimeoutError}
    assert (await append(store, PEARS)).first_position == 1


# --- Another program takes rows in another order


async def test_after_a_deadlock_appends_give_way_before_there_is_another_one(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(store, APPLES)

    async def both_want_what_the_other_has() -> bool:
        """Whether the other program was spared."""
        spared, ours = True, None
        try:
            async with held_up(other):
                ours = begun(store, APPLES)
                await waiting_backend(other)
                await other.execute("update public.streams set stream_version = stream_version")
        except asyncpg.DeadlockDetectedError:
            spared = False
        assert ours
        await ours
        return spared

    deadlocks = 0
    while not deadlocks:
        with capture_logs() as said:
            await both_want_what_the_other_has()
        deadlocks = sum(line["reason"] == "DeadlockDetectedError" for line in said)
    with capture_logs() as said:
        assert await both_want_what_the_other_has()
    assert [line["event"] for line in said] == ["append.held_up"]
    # When the other program is gone, waiting is right again.
    monkeypatch.setattr(store.appender, "_hasty_until", 0.1)
    await append(store, APPLES)
    assert await store.appender._line.fetch("show lock_timeout") == [("1500ms",)]
    versions = numbers(await store.read_stream(APPLES))
    assert versions == list(range(1, len(versions) + 1))
