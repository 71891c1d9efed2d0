"""Group commit: appends that share a transaction share nothing else, whatever becomes of callers and connections."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from appending import PATIENCE, Connection, begun, counted, held_up, settled, waiting_backend
from databases import PrivateServer
from eventstore import appender
from eventstore.appender import UNAVAILABLE, Appender
from eventstore.migrate import migrate
from eventstore.pool import Line
from eventstore.postgres import PostgresStore
from eventstore.reader import SQL
from eventstore.store import (
    Append,
    Appended,
    Claim,
    ClaimLost,
    DuplicateEvent,
    NewEvent,
    StreamDeleted,
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


# --- One batch, many outcomes


async def test_each_append_of_a_batch_has_an_outcome_of_its_own(store: PostgresStore) -> None:
    known = event()
    await append(store, PEARS, known)
    await append(store, "closed")
    await store.delete_stream("closed")
    before = store.appender.batches
    outcomes = await settled(
        begun(store, APPLES, *events(2)),
        begun(store, APPLES, expected=7),
        begun(store, APPLES, known),
        begun(store, PEARS, known),
        begun(store, "closed"),
        begun(store, APPLES, confirm=[Claim("order_number", "A-1", uuid4())]),
        begun(store, APPLES, *events(2), expected=2),
    )
    assert [type(outcome) for outcome in outcomes] == [
        Appended,
        WrongExpectedVersion,
        DuplicateEvent,
        Appended,
        StreamDeleted,
        ClaimLost,
        Appended,
    ]
    # The one that repeats an id of the batch had to wait for the next.
    assert store.appender.batches - before == 2
    assert numbers(await store.read_stream(APPLES)) == [1, 2, 3, 4]
    assert numbers(await store.read_all()) == list(range(1, 7))


POISON: dict[str, tuple[str, Any, Any, Any]] = {
    "NUL in a type": (APPLES, uuid4(), "Fruit.\x00Picked", b"{}"),
    "NUL in a name": ("apples\x00", uuid4(), "Fruit.Picked", b"{}"),
    "half a character in a type": (APPLES, uuid4(), "Fruit.\udfffPicked", b"{}"),
    "half a character in a name": ("apples\ud800", uuid4(), "Fruit.Picked", b"{}"),
    "a name longer than an index takes": ("x" * 1_000_000, uuid4(), "Fruit.Picked", b"{}"),
    "text for bytes": (APPLES, uuid4(), "Fruit.Picked", "{}"),
    "a number for a type": (APPLES, uuid4(), 7, b"{}"),
    "text for an id": (APPLES, "no id", "Fruit.Picked", b"{}"),
}


@pytest.mark.parametrize("poison", POISON)
async def test_an_append_that_can_not_be_stored_fails_alone_and_is_not_tried_again(
    store: PostgresStore, poison: str
) -> None:
    stream, event_id, event_type, data = POISON[poison]
    with capture_logs() as said:
        good = [begun(store, f"stream-{turn}") for turn in range(5)]
        bad = begun(store, stream, NewEvent(event_id, event_type, data))
        good += [begun(store, f"stream-{turn}") for turn in range(5, 10)]
        *outcomes, failed = await settled(*good, bad)
    assert {type(outcome) for outcome in outcomes} == {Appended}
    assert isinstance(failed, (asyncpg.PostgresError, ValueError))
    assert said == []
    assert numbers(await store.read_all()) == list(range(1, 11))
    assert (await append(store, PEARS)).first_position == 11


async def test_a_stream_that_is_out_of_order_does_not_hurt_the_others(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_ATTEMPTS", 2)
    await append(store, APPLES, *events(2))
    await other.execute("update public.streams set stream_version = 0 where stream_uuid = $1", APPLES)
    outcomes = await settled(*(begun(store, stream) for stream in (PEARS, APPLES, "plums", "figs")))
    assert [type(outcome) for outcome in outcomes] == [Appended, asyncpg.UniqueViolationError, Appended, Appended]
    assert numbers(await store.read_all()) == [1, 2, 3, 4, 5]


# --- Callers who give up


async def test_who_gives_up_before_the_append_was_sent_leaves_nothing(store: PostgresStore, other: Connection) -> None:
    async with held_up(other):
        sent = begun(store, APPLES)
        await waiting_backend(other)
        queued, next_in_line = begun(store, PEARS), begun(store, APPLES)
        await asyncio.sleep(0)
        queued.cancel()
    outcomes = await settled(sent, queued, next_in_line)
    assert [type(outcome) for outcome in outcomes] == [Appended, asyncio.CancelledError, Appended]
    assert await store.stream_info(PEARS) is None


async def test_who_gives_up_after_the_append_was_sent_leaves_it_whole(store: PostgresStore, other: Connection) -> None:
    claim = Claim("order_number", "A-1", uuid4())
    await store.reserve(claim, uuid4(), lease_seconds=3600)
    three = events(3)
    async with held_up(other):
        sent = begun(store, APPLES, *three, confirm=[claim])
        neighbour = begun(store, PEARS)
        await waiting_backend(other)
        sent.cancel()
    assert [type(outcome) for outcome in await settled(sent, neighbour)] == [asyncio.CancelledError, Appended]
    assert ids(await store.read_stream(APPLES)) == ids(three)
    assert await store.claim_owner("order_number", "A-1") == claim.owner
    assert (await append(store, APPLES, *three)).repeated


async def test_those_who_give_up_leave_their_places_to_others(store: PostgresStore, other: Connection) -> None:
    class Small(Appender):
        MAX_WAITING = 3

    store.appender = Small(store.appender._line, SQL["append"], SQL["append_one"])
    async with held_up(other):
        sent = begun(store, APPLES)
        await waiting_backend(other)
        for _ in range(20):
            gave_up = begun(store, PEARS)
            await asyncio.sleep(0)
            gave_up.cancel()
            await asyncio.wait([gave_up])
        assert len(store.appender._queue) == 0
        next_in_line = [begun(store, "plums") for _ in range(3)]
        await asyncio.sleep(0)
        assert len(store.appender._queue) == 2
    assert {type(outcome) for outcome in await settled(sent, *next_in_line)} == {Appended}
    assert await store.stream_info(PEARS) is None


async def test_what_is_queued_is_written_before_the_store_closes(event_store_url: str, other: Connection) -> None:
    async with PostgresStore.open(event_store_url) as store, held_up(other):
        tasks = [begun(store, APPLES) for _ in range(5)]
        await asyncio.sleep(0)
    assert {type(outcome) for outcome in await settled(*tasks)} == {Appended}


# --- Connections that are lost


async def test_an_append_whose_session_is_killed_is_written_once(store: PostgresStore, other: Connection) -> None:
    two = events(2)
    async with held_up(other):
        tasks = [begun(store, APPLES, *two, expected=0), begun(store, APPLES, expected=2), begun(store, PEARS)]
        await other.fetchval("select pg_terminate_backend($1)", await waiting_backend(other))
    outcomes = await settled(*tasks)
    assert [type(outcome) for outcome in outcomes] == [Appended, Appended, Appended]
    assert ids(await store.read_stream(APPLES))[:2] == ids(two)
    assert numbers(await store.read_all()) == [1, 2, 3, 4]


async def test_an_append_whose_answer_gets_lost_is_answered_by_what_was_written(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await append(store, PEARS)
    line = store.appender._line
    fetch, lost = line.fetch, list[str]()

    async def losing(statement: str, *arguments: object) -> object:
        rows = await fetch(statement, *arguments)
        if statement == SQL["append"] and not lost:
            lost.append(statement)
            raise asyncpg.ConnectionDoesNotExistError("the connection was lost before the answer came")
        return rows

    monkeypatch.setattr(line, "fetch", losing)
    outcomes = await settled(begun(store, APPLES, *events(2), expected=0), begun(store, APPLES, expected="no_stream"))
    first, second = outcomes
    assert isinstance(first, Appended)
    assert (first.first_version, first.first_position) == (1, 2)
    assert isinstance(second, WrongExpectedVersion)
    assert second.actual == 2
    assert len(lost) == 1
    assert await store.stream_version("$all") == 3


async def test_sessions_that_are_killed_again_and_again_cost_no_append_and_double_none(
    event_store_url: str, store: PostgresStore, other: Connection
) -> None:
    streams = [f"stream-{number}" for number in range(8)]
    acknowledged: dict[str, list[tuple[int, list[UUID]]]] = {stream: [] for stream in streams}

    async def write(stream: str) -> None:
        for _ in range(25):
            new = events(2)
            answer = await append(store, stream, *new, expected=2 * len(acknowledged[stream]))
            acknowledged[stream].append((answer.first_version, ids(new)))

    def count() -> int:
        return sum(map(len, acknowledged.values()))

    writing = asyncio.gather(*(write(stream) for stream in streams))
    kills = 0
    while not writing.done():
        kills += await other.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and query like '%waybill.append%'"
        )
        # However slow the machine is: whoever is never let through is right to give up.
        before = count()
        await eventually(lambda before=before: writing.done() or count() > before, within=PATIENCE)
    await writing
    assert kills
    # With new sessions: the last one that was killed may still be in the pool.
    async with PostgresStore.open(event_store_url) as reader:
        for stream, answers in acknowledged.items():
            read = await reader.read_stream(stream)
            assert numbers(read) == list(range(1, 51))
            assert [(first, ids(read[first - 1 : first + 1])) for first, _ in answers] == answers
        assert numbers(await reader.read_all()) == list(range(1, 401))


async def test_an_append_is_refused_while_the_database_is_away_and_goes_through_when_it_is_back(
    private_postgres: PrivateServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_ATTEMPTS", 3)
    async with private_postgres.empty(migrate) as url, PostgresStore.open(url) as store:
        await append(store, APPLES)
        await private_postgres.kill()
        two = events(2)
        outcomes = await settled(begun(store, APPLES, *two), begun(store, PEARS))
        assert all(isinstance(outcome, UNAVAILABLE) for outcome in outcomes)
        await private_postgres.start()
        assert (await append(store, APPLES, *two)).first_version == 2
        assert await store.stream_info(PEARS) is None


async def test_an_append_that_gets_no_answer_at_all_fails_in_time_and_can_be_repeated(
    store: PostgresStore, other: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_PATIENCE", 1)
    two = events(2)
    async with held_up(other):
        assert [type(outcome) for outcome in await settled(begun(store, APPLES, *two))] == [TimeoutError]
    monkeypatch.undo()
    assert (await append(store, APPLES, *two, expected="no_stream")).first_version == 1


async def test_appends_leave_a_server_that_takes_none_any_more(store: PostgresStore, event_store_url: str) -> None:
    await append(store, APPLES)
    # As far as its sessions can tell, it has become a standby.
    await store.appender._line.fetch("set default_transaction_read_only = on")
    assert (await append(store, APPLES)).first_version == 2


async def test_a_pool_leaves_a_server_that_takes_no_writes_any_more(event_store_url: str) -> None:
    async with PostgresStore.open(event_store_url, 1) as store:
        await store.pool.execute("set default_transaction_read_only = on")
        claim = Claim("order_number", "A-1", uuid4())
        with pytest.raises(UNAVAILABLE):
            await store.reserve(claim, uuid4(), lease_seconds=60)
        assert await store.reserve(claim, uuid4(), lease_seconds=60) == "reserved"


# --- How much waits, and how long


async def test_whoever_finds_the_queue_full_waits_before_it(store: PostgresStore, other: Connection) -> None:
    class Small(Appender):
        MAX_WAITING = 3

    store.appender = Small(store.appender._line, SQL["append"], SQL["append_one"])
    async with held_up(other):
        tasks = [begun(store, APPLES) for _ in range(10)]
        await waiting_backend(other)
        assert len(store.appender._queue) <= 3
        assert not any(task.done() for task in tasks)
    assert sorted(answer.first_version for answer in await asyncio.gather(*tasks)) == list(range(1, 11))


async def test_whoever_finds_too_many_bytes_waiting_waits_before_them_and_a_larger_one_goes_alone(
    store: PostgresStore, other: Connection
) -> None:
    class Small(Appender):
        MAX_WAITING_BYTES = 1000

    store.appender = Small(store.appender._line, SQL["append"], SQL["append_one"])
    sizes = (600, 300, 5000, 100, 900)
    async with held_up(other):
        tasks = [begun(store, APPLES, event(data=b"x" * size)) for size in sizes]
        await waiting_backend(other)
        assert store.appender._waiting == 2
        # Who gives up before the entrance is missed by nobody.
        tasks[3].cancel()
        await asyncio.wait([tasks[3]])
    outcomes = await settled(*tasks)
    assert [getattr(outcome, "first_version", None) for outcome in outcomes] == [1, 2, 3, None, 4]
    assert (store.appender._waiting, store.appender._waiting_bytes) == (0, 0)


async def test_a_batch_has_an_end_in_number_and_in_size(store: PostgresStore) -> None:
    class Small(Appender):
        MAX_APPENDS = 4
        MAX_BYTES = 1000

    store.appender = Small(store.appender._line, SQL["append"], SQL["append_one"])
    await settled(*(begun(store, f"stream-{turn}") for turn in range(10)))
    assert store.appender.batches == 3
    sizes = (600, 500, 5000, 100, 100)
    await settled(*(begun(store, APPLES, event(data=b"x" * size)) for size in sizes))
    assert store.appender.batches == 3 + 4
    assert [len(each.data) for each in await store.read_stream(APPLES)] == list(sizes)


async def test_what_waits_while_a_batch_commits_goes_into_the_next_one(store: PostgresStore, other: Connection) -> None:
    async with held_up(other):
        first = begun(store, APPLES)
        await waiting_backend(other)
        tasks = [begun(store, APPLES) for _ in range(100)]
        await asyncio.sleep(0)
    await settled(first, *tasks)
    assert (store.appender.batches, store.appender.appends) == (2, 101)


async def test_an_append_does_not_wait_for_reads_that_have_all_connections(event_store_url: str) -> None:
    async with PostgresStore.open(event_store_url, 1) as store, store.pool.acquire():
        assert [type(outcome) for outcome in await settled(begun(store, APPLES))] == [Appended]


async def test_an_append_that_comes_alone_is_sent_at_once() -> None:
    sent: list[object] = []

    class Noting(Line):
        async def fetch(self, statement: str, *arguments: object) -> Any:
            sent.append(len(sent))
            moment = datetime.now(UTC)
            return [{"outcome": "appended", "first_version": 1, "first_position": 1, "created_at": moment}]

    alone = Appender(Noting("nowhere"), "", "")
    for turn in range(1, 4):
        task = asyncio.ensure_future(alone.append(Append(APPLES, "any", events(1))))
        # The caller, then the appender: nobody waits for company.
        for _ in range(2):
            await asyncio.sleep(0)
        assert len(sent) == turn
        await task
    await alone.close()


async def test_a_batch_that_is_repeated_while_it_commits_gets_its_answers_although_its_streams_are_new(
    store: PostgresStore, event_store_url: str, other: Connection
) -> None:
    await append(store, APPLES)
    known, new = event(), event()
    async with PostgresStore.open(event_store_url) as again:
        async with held_up(other):
            first = [begun(store, APPLES, known), begun(store, PEARS, new, expected="no_stream")]
            await waiting_backend(other)
            # It waits for the row of the stream that is there, and has looked for the new one before.
            repeated = [begun(again, APPLES, known), begun(again, PEARS, new, expected="no_stream")]
            await eventually(lambda: two_wait(other))
        answers, answered_again = await settled(*first), await settled(*repeated)
    assert [answer.first_version for answer in answers if isinstance(answer, Appended)] == [2, 1]
    assert [(type(answer), getattr(answer, "repeated", None)) for answer in answered_again] == [(Appended, True)] * 2


@pytest.mark.parametrize("stream", [APPLES, PEARS], ids=["known stream", "new stream"])
async def test_an_append_that_is_repeated_while_it_commits_gets_its_answer_although_it_expects_nothing(
    store: PostgresStore, event_store_url: str, other: Connection, stream: str
) -> None:
    await append(store, APPLES)
    new = event()
    async with PostgresStore.open(event_store_url) as again:
        async with held_up(other):
            first = begun(store, stream, new)
            await waiting_backend(other)
            repeated = begun(again, stream, new)
            await eventually(lambda: two_wait(other))
        answers = await settled(first, repeated)
    assert [(type(answer), getattr(answer, "repeated", None)) for answer in answers] == [
        (Appended, False),
        (Appended, True),
    ]
    assert await store.stream_version("$all") == 2


@pytest.mark.parametrize("count", [1, 2])
async def test_an_event_is_never_older_than_the_one_before_even_if_that_comes_from_a_clock_that_is_ahead(
    store: PostgresStore, other: Connection, count: int
) -> None:
    await append(store, APPLES)
    await other.execute("alter table public.events disable trigger no_update_events")
    ahead = await other.fetchval("update public.events set created_at = now() + interval '1 hour' returning created_at")
    assert (await append(store, PEARS, *events(count))).created_at == ahead


async def two_wait(other: Connection) -> bool:
    await other.execute("select pg_stat_clear_snapshot()")
    waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return await other.fetchval(waits) == 2


async def test_appends_are_counted_by_what_came_of_them(store: PostgresStore):
    known = ("appended", "repeated", "wrong_version", "stream_deleted")
    before = {outcome: counted(outcome) for outcome in known}
    stream, first = str(uuid4()), event("Added")
    await store.append(Append(stream, "no_stream", [first]))
    await store.append(Append(stream, "no_stream", [first]))
    with pytest.raises(WrongExpectedVersion):
        await store.append(Append(stream, "no_stream", [event("Added")]))
    await store.delete_stream(stream)
    with pytest.raises(StreamDeleted):
        await store.append(Append(stream, "any", [event("Added")]))
    assert {outcome: counted(outcome) - before[outcome] for outcome in known} == dict.fromkeys(known, 1)
