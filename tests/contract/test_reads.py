"""Reading: a stream, the global sequence, and what a command needs of its stream."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from eventstore.batches import in_batches, in_ranges
from eventstore.store import EventStore, History, Snapshot, Strangers, StreamInfo
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers
from tests.faults import Real, interposed

NOTHING = "0d9f3b6e-50a7-4c53-b0f4-5b1f6d4f2a11"
"""A stream that does not exist."""


async def test_a_stream_that_does_not_exist_is_empty(store: EventStore) -> None:
    await append(store, APPLES)
    assert await store.read_stream(NOTHING) == []
    assert await store.read_stream(NOTHING, backwards=True) == []
    assert await store.stream_version(NOTHING) == 0


async def test_a_new_store_is_empty(store: EventStore) -> None:
    assert await store.read_all() == []
    assert await store.read_stream("$all") == []
    assert await store.stream_version("$all") == 0


async def test_a_stream_is_read_forwards_after_a_version(store: EventStore) -> None:
    await append(store, PEARS, *events(2))
    five = events(5)
    await append(store, APPLES, *five)

    async def read(after: int, limit: int) -> list[int]:
        found = await store.read_stream(APPLES, after=after, limit=limit)
        assert ids(found) == [five[number - 1].event_id for number in numbers(found)]
        return numbers(found)

    assert await read(after=0, limit=10) == [1, 2, 3, 4, 5]
    assert await read(after=0, limit=5) == [1, 2, 3, 4, 5]
    assert await read(after=0, limit=2) == [1, 2]
    assert await read(after=2, limit=2) == [3, 4]
    assert await read(after=4, limit=10) == [5]
    assert await read(after=5, limit=10) == []
    assert await read(after=99, limit=10) == []
    assert await read(after=0, limit=0) == []


async def test_a_stream_is_read_backwards_before_a_version_or_from_its_end(store: EventStore) -> None:
    await append(store, PEARS, *events(2))
    five = events(5)
    await append(store, APPLES, *five)

    async def read(before: int, limit: int) -> list[int]:
        found = await store.read_stream(APPLES, after=before, limit=limit, backwards=True)
        assert ids(found) == [five[number - 1].event_id for number in numbers(found)]
        return numbers(found)

    assert await read(before=0, limit=10) == [5, 4, 3, 2, 1]
    assert await read(before=0, limit=5) == [5, 4, 3, 2, 1]
    assert await read(before=0, limit=1) == [5]
    assert await read(before=5, limit=2) == [4, 3]
    assert await read(before=2, limit=10) == [1]
    assert await read(before=1, limit=10) == []
    assert await read(before=99, limit=2) == [5, 4]
    assert await read(before=0, limit=0) == []


async def test_a_read_stops_at_1000_events_unless_told_otherwise(store: EventStore) -> None:
    await append(store, APPLES, *events(1001))
    assert numbers(await store.read_stream(APPLES)) == list(range(1, 1001))
    assert numbers(await store.read_all()) == list(range(1, 1001))
    assert len(await store.read_stream(APPLES, limit=2000)) == 1001


async def test_the_global_sequence_holds_every_event_with_its_own_stream_and_version(
    store: EventStore,
) -> None:
    for stream in (APPLES, PEARS, APPLES):
        await append(store, stream)
    everything = await store.read_all()
    assert [(each.position, each.stream_id, each.version) for each in everything] == [
        (1, APPLES, 1),
        (2, PEARS, 1),
        (3, APPLES, 2),
    ]
    assert numbers(everything) == [1, 2, 3]


async def test_an_event_knows_its_position_in_whatever_stream_it_is_read(store: EventStore) -> None:
    await append(store, PEARS, *events(3))
    await append(store, APPLES)
    (here,) = await store.read_stream(APPLES)
    (there,) = await store.read_all(after=3)
    assert (here.number, here.version, here.position) == (1, 1, 4)
    assert (there.number, there.version, there.position) == (4, 1, 4)


async def test_the_global_sequence_can_be_read_as_a_stream(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await append(store, PEARS, *events(2))
    assert await store.read_stream("$all") == await store.read_all()
    assert numbers(await store.read_stream("$all", after=1, limit=2)) == [2, 3]
    assert numbers(await store.read_stream("$all", backwards=True)) == [4, 3, 2, 1]
    assert numbers(await store.read_stream("$all", after=3, limit=1, backwards=True)) == [2]
    assert await store.stream_version("$all") == 4


async def test_the_global_sequence_is_read_after_a_position(store: EventStore) -> None:
    await append(store, APPLES, *events(4))

    async def read(after: int, limit: int) -> list[int]:
        return numbers(await store.read_all(after=after, limit=limit))

    assert await read(after=0, limit=10) == [1, 2, 3, 4]
    assert await read(after=0, limit=3) == [1, 2, 3]
    assert await read(after=3, limit=10) == [4]
    assert await read(after=4, limit=10) == []
    assert await read(after=99, limit=10) == []
    assert await read(after=0, limit=0) == []


async def test_types_that_the_reader_does_not_know_come_too_from_streams_of_its_categories(store: EventStore) -> None:
    for stream, happened in (
        (APPLES, "Fruit.Picked"),
        (PEARS, "Crate.Nailed"),
        (APPLES, "Fruit.Eaten"),
        (PEARS, "Fruit.Wrapped"),
        (APPLES, "Fruit.Polished"),
        (APPLES, "Odd"),
    ):
        await append(store, stream, event(happened))

    async def read(*categories: str) -> list[int]:
        strangers = Strangers(["Fruit.Picked", "Fruit.Eaten"], categories)
        return numbers(await store.read_all(types=["Fruit.Picked"], strangers=strangers))

    assert await read() == [1]
    assert await read("Fruit") == [1, 5, 6]
    assert await read("Crate", "Fruit") == [1, 2, 4, 5, 6]


async def test_the_global_sequence_is_read_for_some_types_only(store: EventStore) -> None:
    for happened in ("Picked", "Eaten", "Picked", "Sold", "Picked", "Eaten"):
        await append(store, APPLES, event(f"Fruit.{happened}"))

    async def read(*happened: str, after: int = 0, limit: int = 10) -> list[int]:
        types = [f"Fruit.{each}" for each in happened]
        return numbers(await store.read_all(after=after, limit=limit, types=types))

    assert await read("Picked") == [1, 3, 5]
    assert await read("Eaten", "Sold") == [2, 4, 6]
    assert await read("Picked", after=1) == [3, 5]
    assert await read("Picked", limit=2) == [1, 3]
    assert await read("Picked", "Rotten", after=3, limit=1) == [5]
    assert await read("Rotten") == []
    assert await read("") == []
    assert await read() == []
    assert numbers(await store.read_all(after=4, types=None)) == [5, 6]


async def test_the_global_sequence_is_read_up_to_a_position(store: EventStore) -> None:
    for happened in ("Picked", "Eaten", "Picked", "Sold", "Picked"):
        await append(store, APPLES, event(happened))
    assert numbers(await store.read_all(until=3)) == [1, 2, 3]
    assert numbers(await store.read_all(after=1, until=3)) == [2, 3]
    assert numbers(await store.read_all(after=3, until=3)) == []
    assert numbers(await store.read_all(after=3, until=99)) == [4, 5]
    assert numbers(await store.read_all(until=4, types=["Picked"])) == [1, 3]
    assert numbers(await store.read_all(after=1, until=2, types=["Picked"])) == []


# --- What a command needs


def snapshot(version: int, stream_id: str = APPLES) -> Snapshot:
    return Snapshot(stream_id, version, "Fruit.Aggregate.Fruit", b'{"kg": 1}', b"{}")


async def test_there_is_nothing_to_load_of_a_stream_that_does_not_exist(store: EventStore) -> None:
    assert await store.load(NOTHING, uuid4()) == History(0, None, [], None)


async def test_a_stream_without_a_snapshot_is_loaded_whole(store: EventStore) -> None:
    three = events(3)
    await append(store, PEARS)
    await append(store, APPLES, *three)
    history = await store.load(APPLES, uuid4())
    assert history.version == 3
    assert history.snapshot is None
    assert history.events == await store.read_stream(APPLES)
    assert ids(history.events) == ids(three)


async def test_a_stream_with_a_snapshot_is_loaded_from_there(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    await store.record_snapshot(snapshot(2))
    history = await store.load(APPLES, uuid4())
    assert (history.version, history.snapshot, numbers(history.events)) == (3, snapshot(2), [3])
    await store.record_snapshot(snapshot(3))
    history = await store.load(APPLES, uuid4())
    assert (history.version, history.snapshot, numbers(history.events)) == (3, snapshot(3), [])


async def test_there_is_no_snapshot_without_a_stream(store: EventStore) -> None:
    await store.record_snapshot(snapshot(1, stream_id=NOTHING))
    assert await store.load(NOTHING, uuid4()) == History(0, None, [], None)


async def test_loading_tells_the_event_that_the_command_has_made_before(store: EventStore) -> None:
    one, two, three = events(3)
    await append(store, PEARS)
    await append(store, APPLES, one, two, three)
    _, second, _ = await store.read_stream(APPLES)
    assert (await store.load(APPLES, two.event_id)).repeated == second
    await store.record_snapshot(snapshot(3))
    assert (await store.load(APPLES, two.event_id)).repeated == second


async def test_loading_tells_the_event_of_another_stream_too(store: EventStore) -> None:
    elsewhere = event()
    await append(store, PEARS, elsewhere)
    (there,) = await store.read_stream(PEARS)
    assert await store.load(NOTHING, elsewhere.event_id) == History(0, None, [], there)
    await append(store, APPLES)
    assert (await store.load(APPLES, elsewhere.event_id)).repeated == there


# --- Streams as they stand


async def test_a_stream_tells_its_version_and_when_it_was_created(store: EventStore) -> None:
    first = await append(store, APPLES, *events(2))
    await append(store, APPLES)
    info = await store.stream_info(APPLES)
    assert info is not None
    assert (info.stream_id, info.version, info.deleted_at) == (APPLES, 3, None)
    assert abs(first.created_at - info.created_at) < timedelta(seconds=10)
    assert info.created_at.utcoffset() == timedelta(0)


async def test_there_is_nothing_to_tell_of_a_stream_that_does_not_exist(store: EventStore) -> None:
    assert await store.stream_info(NOTHING) is None


async def test_the_global_sequence_tells_its_head(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    info = await store.stream_info("$all")
    assert info is not None
    assert (info.stream_id, info.number, info.version) == ("$all", 0, 2)


async def test_streams_are_listed_page_by_page_in_the_order_of_their_creation(store: EventStore) -> None:
    names = [f"stream-{number}" for number in (3, 1, 2, 5, 4)]
    for name in [*names, *names]:
        await append(store, name)
    listed: list[StreamInfo] = []
    while page := await store.list_streams(after=listed[-1].number if listed else 0, limit=2):
        listed += page
    assert [(each.stream_id, each.version) for each in listed] == [(name, 2) for name in names]
    assert listed == [await store.stream_info(name) for name in names]


async def test_an_empty_store_lists_no_stream(store: EventStore) -> None:
    assert await store.list_streams() == []
    assert await store.list_streams(after=99) == []
    assert await store.list_streams(limit=0) == []


# --- More than fits into memory


async def test_a_stream_is_read_in_batches(store: EventStore) -> None:
    await append(store, PEARS)
    await append(store, APPLES, *events(7))
    batches = [numbers(batch) async for batch in in_batches(partial(store.read_stream, APPLES), size=3)]
    assert batches == [[1, 2, 3], [4, 5, 6], [7]]
    batches = [numbers(batch) async for batch in in_batches(partial(store.read_stream, APPLES), after=4, size=3)]
    assert batches == [[5, 6, 7]]
    assert [batch async for batch in in_batches(partial(store.read_stream, NOTHING))] == []


async def test_a_stream_is_read_backwards_in_batches(store: EventStore) -> None:
    await append(store, APPLES, *events(6))
    read = partial(store.read_stream, APPLES, backwards=True)
    assert [numbers(batch) async for batch in in_batches(read, size=4)] == [[6, 5, 4, 3], [2, 1]]
    assert [numbers(batch) async for batch in in_batches(read, size=3)] == [[6, 5, 4], [3, 2, 1]]


async def test_the_global_sequence_is_read_in_batches(store: EventStore) -> None:
    for happened in ("Picked", "Eaten", "Picked", "Sold", "Picked"):
        await append(store, APPLES, event(happened))
    assert [numbers(batch) async for batch in in_batches(store.read_all, size=2)] == [[1, 2], [3, 4], [5]]
    picked = partial(store.read_all, types=["Picked"])
    assert [numbers(batch) async for batch in in_batches(picked, size=2)] == [[1, 3], [5]]


async def test_events_that_come_while_batches_are_read_are_read_too(store: EventStore) -> None:
    await append(store, APPLES, *events(4))
    seen: list[int] = []
    async for batch in in_batches(store.read_all, size=2):
        seen += numbers(batch)
        if len(seen) < 8:
            await append(store, APPLES, *events(1))
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) >= 6


async def test_the_global_sequence_is_read_range_by_range(store: EventStore) -> None:
    for happened in ("Picked", "Eaten", "Picked", "Sold", "Sold", "Picked", "Eaten"):
        await append(store, APPLES, event(happened))

    async def read(size: int, **bounds: Any) -> list[tuple[int, list[int]]]:
        return [(reached, numbers(page)) async for reached, page in in_ranges(store, size=size, **bounds)]

    assert await read(3) == [(3, [1, 2, 3]), (6, [4, 5, 6]), (7, [7])]
    assert await read(7) == await read(100) == [(7, [1, 2, 3, 4, 5, 6, 7])]
    assert [number for _, page in await read(1) for number in page] == [1, 2, 3, 4, 5, 6, 7]
    assert await read(2, after=2, until=5) == [(4, [3, 4]), (5, [5])]
    assert await read(2, types=["Picked"]) == [(2, [1]), (4, [3]), (6, [6]), (7, [])]
    assert await read(3, after=7) == []
    assert await read(3, after=99) == []
    await store.delete_stream(APPLES, hard=True)
    await append(store, PEARS)
    assert await read(3) == [(3, []), (6, []), (8, [8])]


async def test_a_range_that_cannot_be_read_is_no_end_and_leaves_nothing_under_way(store: EventStore) -> None:
    await append(store, APPLES, *events(4))
    before = asyncio.all_tasks()
    seen: list[int] = []
    reads = count(1)

    async def third_fails(really_read: Real) -> Any:
        if next(reads) > 2:
            raise ConnectionError
        return await really_read()

    async def read() -> None:
        async for _, page in in_ranges(store, size=1):
            seen.extend(numbers(page))

    with interposed(store, "read_all", third_fails), pytest.raises(ConnectionError):
        await read()
    assert seen == [1, 2]
    assert asyncio.all_tasks() <= before
    async with aclosing(in_ranges(store, size=1)) as ranges:
        await anext(ranges)
    assert asyncio.all_tasks() <= before
