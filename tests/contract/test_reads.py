"""Reading: a stream, the global sequence, and what a command needs of its stream."""

from uuid import uuid4

from eventstore.store import EventStore, History, Snapshot
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers

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


async def test_a_snapshot_ahead_of_its_stream_is_ignored(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await store.record_snapshot(snapshot(3))
    history = await store.load(APPLES, uuid4())
    assert (history.version, history.snapshot, numbers(history.events)) == (2, None, [1, 2])
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


# --- Snapshots


async def test_a_newer_snapshot_takes_the_place_of_an_older_one(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    for version in (1, 4):
        await store.record_snapshot(snapshot(version))
    assert (await store.load(APPLES, uuid4())).snapshot == snapshot(4)


async def test_an_older_snapshot_never_takes_the_place_of_a_newer_one(store: EventStore) -> None:
    await append(store, APPLES, *events(5))
    for version in (4, 1, 3):
        await store.record_snapshot(snapshot(version))
    assert (await store.load(APPLES, uuid4())).snapshot == snapshot(4)


async def test_a_snapshot_belongs_to_its_stream(store: EventStore) -> None:
    for stream in (APPLES, PEARS):
        await append(store, stream, *events(3))
    await store.record_snapshot(snapshot(1, stream_id=APPLES))
    await store.record_snapshot(snapshot(2, stream_id=PEARS))
    assert (await store.load(APPLES, uuid4())).snapshot == snapshot(1, stream_id=APPLES)
    assert (await store.load(PEARS, uuid4())).snapshot == snapshot(2, stream_id=PEARS)


async def test_a_snapshot_is_kept_byte_for_byte(store: EventStore) -> None:
    kept = Snapshot(APPLES, 1, "Größe 🍎", b"\x00\xff, not JSON at all", None)
    await append(store, APPLES)
    await store.record_snapshot(kept)
    assert (await store.load(APPLES, uuid4())).snapshot == kept
