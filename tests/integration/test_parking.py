"""Parked events: who is held up, who is due, and what an operator may say of them."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from uuid import uuid4

import pytest

from command_line import CommandLine
from eventstore.pool import open_pool
from eventstore.postgres import PostgresStore
from eventstore.store import RecordedEvent
from projections import parking, verify
from projections.parking import Parking, Place, State
from support import eventually
from tests.contract.appends import APPLES, PEARS, append, events

ME = "counter"


@pytest.fixture
async def store(event_store_url: str) -> AsyncGenerator[PostgresStore]:
    """Positions 1 to 4 are of apples, 5 to 8 of pears."""
    async with PostgresStore.open(event_store_url) as store:
        await append(store, APPLES, *events(4))
        await append(store, PEARS, *events(4))
        yield store


@pytest.fixture
async def fruits(store: PostgresStore) -> list[RecordedEvent]:
    return await store.read_all()


@pytest.fixture
def place(store: PostgresStore) -> Place:
    return store.pool


async def failed(place: Place, fruits: list[RecordedEvent], first: int, *behind: int, subscriber: str = ME) -> None:
    rows = [Parking(fruits[first - 1], "failed", "no ladder", 3)]
    await parking.park(place, subscriber, rows + [Parking(fruits[position - 1], "behind") for position in behind])


async def states(place: Place, subscriber: str = ME) -> dict[int, State]:
    found = await parking.listed([place], subscriber, limit=100)
    return {event.position: event.state for event in sorted(found, key=lambda event: event.position)}


def positions(found: Iterable[parking.Parked]) -> list[int]:
    return [event.position for event in found]


async def test_an_event_is_parked_with_all_that_is_known_of_it(place: Place, fruits: list[RecordedEvent]) -> None:
    await parking.park(place, ME, [Parking(fruits[1], "failed", "no\n  ladder\0 \ud800", 3)])
    (parked,) = await parking.listed([place], limit=10)
    assert (parked.subscriber, parked.position, parked.stream_id) == (ME, 2, APPLES)
    assert (parked.event_id, parked.event_type) == (fruits[1].event_id, "Fruit.Picked")
    assert (parked.state, parked.reason, parked.attempts, parked.retry_at) == ("failed", "no ladder ?", 3, None)


async def test_a_failed_event_holds_up_its_stream_and_is_not_due(place: Place, fruits: list[RecordedEvent]) -> None:
    await failed(place, fruits, 1, 2)
    assert await parking.held_up(place, ME) == {APPLES}
    assert await parking.held_up(place, "another") == set()
    assert await parking.due(place, ME, 10) == []


async def test_a_stream_that_is_to_be_retried_is_due_with_all_its_events_in_order(
    place: Place, fruits: list[RecordedEvent]
) -> None:
    await failed(place, fruits, 1, 2, 4)
    await failed(place, fruits, 5, 6)
    await failed(place, fruits, 1, subscriber="another")
    assert positions(await parking.request_retry([place], ME, APPLES)) == [1, 2, 4]
    assert positions(await parking.due(place, ME, 10)) == [1, 2, 4]
    assert positions(await parking.due(place, ME, 2)) == [1, 2]
    assert await parking.due(place, "another", 10) == []


async def test_an_event_that_waits_is_due_when_its_time_has_come(place: Place, fruits: list[RecordedEvent]) -> None:
    await parking.park(place, ME, [Parking(fruits[0], "waiting", retry_in=3600), Parking(fruits[1], "behind")])
    await parking.park(place, ME, [Parking(fruits[4], "waiting", retry_in=0), Parking(fruits[5], "behind")])
    assert positions(await parking.due(place, ME, 10)) == [5, 6]
    assert await parking.held_up(place, ME) == {APPLES, PEARS}


async def test_what_stood_behind_an_event_that_is_done_is_due(place: Place, fruits: list[RecordedEvent]) -> None:
    await failed(place, fruits, 1, 2, 3, 4)
    await failed(place, fruits, 5, 6)
    await parking.done(place, ME, [1, 2])
    assert await states(place) == {3: "retry", 4: "retry", 5: "failed", 6: "behind"}
    await parking.done(place, ME, [3, 4])
    assert await parking.held_up(place, ME) == {PEARS}


async def test_what_stood_behind_an_event_that_fails_again_goes_on_waiting(
    place: Place, fruits: list[RecordedEvent]
) -> None:
    await failed(place, fruits, 1, 2)
    await failed(place, fruits, 5, 6)
    await parking.request_retry([place], None, None)
    await parking.park(place, ME, [Parking(fruits[0], "failed", "too high", 4)])
    assert await states(place) == {1: "failed", 2: "behind", 5: "retry", 6: "retry"}
    (first, *_) = await parking.listed([place], ME, limit=10)
    assert (first.reason, first.attempts) == ("too high", 4)
    assert positions(await parking.due(place, ME, 10)) == [5, 6]


async def test_an_event_that_comes_again_does_not_stand_behind_itself(
    place: Place, fruits: list[RecordedEvent]
) -> None:
    await failed(place, fruits, 1, 2)
    await parking.park(place, ME, [Parking(fruits[0], "behind"), Parking(fruits[1], "behind")])
    assert await states(place) == {1: "failed", 2: "behind"}
    (first, *_) = await parking.listed([place], limit=1)
    assert first.reason == "no ladder"


async def test_a_discarded_event_holds_up_nothing_and_stays_discarded(
    place: Place, fruits: list[RecordedEvent]
) -> None:
    await failed(place, fruits, 1, 2, 3)
    assert sorted(positions(await parking.request_discard([place], None, APPLES))) == [1, 2, 3]
    assert await states(place) == {1: "discarded", 2: "retry", 3: "retry"}
    assert positions(await parking.due(place, ME, 10)) == [2, 3]

    # A subscriber that was at it just then.
    await parking.park(place, ME, [Parking(fruits[0], "failed", "too high", 4)])
    assert (await states(place))[1] == "discarded"
    await parking.done(place, ME, [2, 3])
    assert await parking.held_up(place, ME) == set()
    assert await parking.request_retry([place], None, None) == []


async def test_one_subscribers_event_can_be_discarded_without_the_others(
    place: Place, fruits: list[RecordedEvent]
) -> None:
    await failed(place, fruits, 1)
    await failed(place, fruits, 2, subscriber="another")
    assert positions(await parking.request_discard([place], ME, APPLES)) == [1]
    assert await states(place, "another") == {2: "failed"}
    assert await parking.request_discard([place], None, PEARS) == []


async def test_parked_events_are_counted_by_subscriber_and_state(place: Place, fruits: list[RecordedEvent]) -> None:
    await failed(place, fruits, 1, 2, 3)
    await parking.park(place, "another", [Parking(fruits[4], "waiting", retry_in=1)])
    assert await parking.counts([place]) == {ME: {"failed": 1, "behind": 2}, "another": {"waiting": 1}}


async def test_an_audit_tells_of_what_somebody_has_to_see_to_and_not_of_what_waits(
    place: Place, fruits: list[RecordedEvent]
) -> None:
    await failed(place, fruits, 1)
    await parking.park(place, ME, [Parking(fruits[4], "waiting", "not ripe", 1, 60)])
    (finding,) = await verify.parked([place])
    assert (finding.kind, finding.subject) == ("parked-event", f"{ME} {fruits[0].event_id}")


async def test_both_stores_are_looked_through_and_the_urgent_comes_first(
    store: PostgresStore, read_store_url: str, fruits: list[RecordedEvent]
) -> None:
    async with open_pool(read_store_url, 1) as views:
        await failed(store.pool, fruits, 1, 2)
        await failed(views, fruits, 5, 6, subscriber="orders")
        places = store.pool, views
        assert positions(await parking.listed(places, limit=3)) == [1, 5, 2]
        # Where both are one database, nothing is told twice.
        assert positions(await parking.listed([store.pool, store.pool], limit=3)) == [1, 2]
        marked = await parking.request_retry(places, None, None)
        assert len(marked) == 4
        await parking.done(views, "orders", [5])
        assert positions(await parking.still_parked(places, marked)) == [1, 2, 6]


async def test_where_both_stores_are_one_database_one_event_is_discarded(
    store: PostgresStore, event_store_url: str, fruits: list[RecordedEvent]
) -> None:
    await failed(store.pool, fruits, 1, 2, 3)
    async with open_pool(event_store_url, 1) as views:
        assert positions(await parking.request_discard([store.pool, views], ME, APPLES)) == [1, 2, 3]
    assert await states(store.pool) == {1: "discarded", 2: "retry", 3: "retry"}


async def test_an_event_is_found_by_its_id_in_whatever_stream(store: PostgresStore) -> None:
    first, *_, last = await store.read_all()
    found = await store.find_events([last.event_id, uuid4(), first.event_id])
    assert [(event.event_id, event.position) for event in found] == [(first.event_id, 1), (last.event_id, 8)]


async def test_both_stores_have_the_same_table(store: PostgresStore, read_store_url: str) -> None:
    shape = """
        select pg_get_indexdef(indexrelid) as line from pg_index where indrelid = 'waybill.parked'::regclass
        union all select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'waybill.parked'::regclass
        union all select concat(attname, ' ', format_type(atttypid, atttypmod)) from pg_attribute
        where attrelid = 'waybill.parked'::regclass and attnum > 0
        order by line
    """
    async with open_pool(read_store_url, 1) as views:
        assert await views.fetch(shape) == await store.pool.fetch(shape)


# --- On the command line


@pytest.fixture
def waybill(event_store_url: str, read_store_url: str) -> CommandLine:
    return CommandLine({"WAYBILL_EVENT_STORE_URL": event_store_url, "WAYBILL_READ_STORE_URL": read_store_url})


async def test_an_operator_sees_what_is_parked(place: Place, fruits: list[RecordedEvent], waybill: CommandLine) -> None:
    await failed(place, fruits, 1, 2)
    listed = await waybill("parked", "list")
    first, second = listed.out.splitlines()
    assert first.startswith(f"failed    {ME}  {APPLES}  Fruit.Picked at 1, parked 2")
    assert first.endswith(" after 3 attempts: no ladder")
    assert second.startswith(f"behind    {ME}  {APPLES}  Fruit.Picked at 2, parked 2")
    as_json = (await waybill("parked", "list", "--json", "--subscriber", ME)).events
    assert [(each["position"], each["state"], each["event_id"]) for each in as_json] == [
        (1, "failed", str(fruits[0].event_id)),
        (2, "behind", str(fruits[1].event_id)),
    ]
    assert (await waybill("parked", "list", "--subscriber", "x")).out == "Nothing of x is parked.\n"


async def test_an_operator_who_asks_for_a_retry_hears_what_came_of_it(
    place: Place, fruits: list[RecordedEvent], waybill: CommandLine
) -> None:
    await failed(place, fruits, 1, 2)
    await failed(place, fruits, 5, 6)

    async def work() -> None:
        """Apples can be had again, pears can't."""
        await eventually(lambda: parking.due(place, ME, 10), within=60)
        await parking.done(place, ME, [1, 2])
        await parking.park(place, ME, [Parking(fruits[4], "failed", "too high", 4)])

    told, _ = await asyncio.gather(waybill("parked", "retry", "--all"), work())
    assert told.code == 1
    marked, done, first, second = told.out.splitlines()
    assert (marked, done) == ("4 events of 2 streams marked", "2 done")
    assert sorted([first.split()[0], second.split()[0]]) == ["behind", "failed"]
    assert "after 4 attempts: too high" in told.out


async def test_an_operator_discards_what_holds_a_stream_up(
    place: Place, fruits: list[RecordedEvent], waybill: CommandLine
) -> None:
    await failed(place, fruits, 1)
    told = await waybill("parked", "discard", APPLES, "--json")
    assert (told.code, told.json["done"]) == (0, 0)
    assert [(each["position"], each["state"]) for each in told.json["parked"]] == [(1, "discarded")]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["retry", "x"], 1, "Error: nothing of stream x is parked\n"),
        (["retry", "--all"], 1, "Error: nothing is parked\n"),
        (["discard", "x", "--subscriber", "y"], 1, "Error: nothing of stream x is parked by y\n"),
        (["retry"], 2, "Error: say which: a stream, --subscriber, or --all\n"),
        (["retry", "x", "--all"], 2, "Error: a stream or --all, not both\n"),
    ],
)
async def test_what_can_not_be_marked_is_told_in_one_line(
    waybill: CommandLine, arguments: list[str], code: int, error: str
) -> None:
    told = await waybill("parked", *arguments)
    assert (told.code, told.err.splitlines(keepends=True)[-1]) == (code, error)
