"""Deleting: a stream is closed and its events stay, or it is removed for good and leaves nothing but gaps."""

import asyncio
from functools import partial
from uuid import UUID, uuid4

import pytest

from eventstore.batches import in_batches
from eventstore.store import (
    Answer,
    Appended,
    Claim,
    EventNotFound,
    EventStore,
    ExpectedVersion,
    Linked,
    ReservedStream,
    Snapshot,
    StreamDeleted,
    StreamNotFound,
    WrongExpectedVersion,
)
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers, written

NUMBER = Claim("order_number", "A-1", UUID(APPLES))
both = pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])

# --- Closed


async def test_a_deleted_stream_can_not_be_read(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    await store.delete_stream(APPLES)
    for read in (
        store.read_stream(APPLES),
        store.read_stream(APPLES, after=3),
        store.read_stream(APPLES, backwards=True),
        store.stream_version(APPLES),
        store.load(APPLES, uuid4()),
    ):
        with pytest.raises(StreamDeleted):
            await read


@pytest.mark.parametrize("expected", ["any", "no_stream", "stream_exists", 0, 2, 7])
async def test_a_deleted_stream_takes_no_append_whatever_it_expects(
    store: EventStore, expected: ExpectedVersion
) -> None:
    two = events(2)
    await append(store, APPLES, *two)
    await store.delete_stream(APPLES)
    with pytest.raises(StreamDeleted):
        await append(store, APPLES, expected=expected)
    assert await written(store) == ids(two)


async def test_a_deleted_stream_does_not_hurt_an_append_beside_it(store: EventStore) -> None:
    await append(store, APPLES)
    await store.delete_stream(APPLES)
    outcomes = await asyncio.gather(append(store, APPLES), append(store, PEARS), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StreamDeleted, Appended]


async def test_a_repeated_append_gets_its_first_answer_though_the_stream_was_deleted_since(store: EventStore) -> None:
    first = await append(store, APPLES, one := event())
    await store.delete_stream(APPLES)
    again = await append(store, APPLES, one)
    assert (again.first_position, again.repeated) == (first.first_position, True)


async def test_events_of_a_deleted_stream_stay_in_the_global_sequence_and_in_links(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.link("basket", ids(two))
    await store.delete_stream(APPLES)
    assert await written(store) == ids(two)
    assert ids(await store.read_stream("basket")) == ids(two)
    await store.link("cellar", ids(two))
    assert [each.stream_id for each in await store.read_stream("cellar")] == [APPLES, APPLES]


async def test_a_deleted_stream_is_still_told_of(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await store.delete_stream(APPLES)
    info = await store.stream_info(APPLES)
    assert info is not None
    assert info.version == 2
    assert info.deleted_at is not None
    assert await store.list_streams() == [info]


async def test_a_deleted_stream_keeps_its_claims(store: EventStore) -> None:
    await store.reserve(NUMBER, uuid4(), lease_seconds=3600)
    await append(store, APPLES, confirm=[NUMBER])
    await store.delete_stream(APPLES)
    assert await store.claim_owner("order_number", "A-1") == NUMBER.owner


async def test_a_stream_is_deleted_once(store: EventStore) -> None:
    await append(store, APPLES)
    await store.delete_stream(APPLES)
    for expected in ("any", 1, 7):
        with pytest.raises(StreamDeleted):
            await store.delete_stream(APPLES, expected=expected)


# --- What is expected


@both
async def test_a_stream_that_does_not_exist_can_not_be_deleted(store: EventStore, hard: bool) -> None:
    for expected in ("any", "no_stream", "stream_exists", 0, 1):
        with pytest.raises(StreamNotFound):
            await store.delete_stream(APPLES, expected=expected, hard=hard)


@both
async def test_the_global_sequence_can_not_be_deleted(store: EventStore, hard: bool) -> None:
    await append(store, APPLES)
    with pytest.raises(ReservedStream):
        await store.delete_stream("$all", hard=hard)
    assert numbers(await store.read_all()) == [1]


@both
@pytest.mark.parametrize("expected", ["any", "stream_exists", 2])
async def test_a_stream_of_two_events_is_what_a_deletion_expects(
    store: EventStore, expected: ExpectedVersion, hard: bool
) -> None:
    await append(store, APPLES, *events(2))
    await store.delete_stream(APPLES, expected=expected, hard=hard)
    info = await store.stream_info(APPLES)
    assert info is None or info.deleted_at is not None


@both
@pytest.mark.parametrize("expected", ["no_stream", 0, 1, 3])
async def test_a_stream_of_two_events_is_not_what_a_deletion_expects(
    store: EventStore, expected: ExpectedVersion, hard: bool
) -> None:
    await append(store, APPLES, *(two := events(2)))
    with pytest.raises(WrongExpectedVersion) as wrong:
        await store.delete_stream(APPLES, expected=expected, hard=hard)
    assert (wrong.value.stream_id, wrong.value.actual) == (APPLES, 2)
    assert ids(await store.read_stream(APPLES)) == ids(two)


@both
async def test_an_expected_version_below_0_is_a_mistake_in_a_deletion(store: EventStore, hard: bool) -> None:
    await append(store, APPLES)
    with pytest.raises(ValueError, match="0 or greater"):
        await store.delete_stream(APPLES, expected=-1, hard=hard)


# --- Removed for good


async def test_a_hard_deleted_stream_and_its_events_are_nowhere(store: EventStore) -> None:
    await append(store, PEARS)
    await append(store, APPLES, *(two := events(2)))
    await store.link("basket", ids(two))
    await store.delete_stream(APPLES, hard=True)
    assert await store.stream_info(APPLES) is None
    assert await store.read_stream(APPLES) == []
    assert await store.stream_version(APPLES) == 0
    assert [each.stream_id for each in await store.list_streams()] == [PEARS, "basket"]
    assert [each.stream_id for each in await store.read_all()] == [PEARS]
    assert await store.read_stream("basket") == []
    assert (await store.recall(uuid4(), two[0].event_id)).event is None
    with pytest.raises(EventNotFound):
        await store.link("basket", ids(two))


async def test_a_stream_is_hard_deleted_once(store: EventStore) -> None:
    await append(store, APPLES)
    await store.delete_stream(APPLES, hard=True)
    with pytest.raises(StreamNotFound):
        await store.delete_stream(APPLES, hard=True)
    with pytest.raises(StreamNotFound):
        await store.delete_stream(APPLES)


async def test_a_deleted_stream_may_be_hard_deleted(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await store.delete_stream(APPLES)
    with pytest.raises(WrongExpectedVersion):
        await store.delete_stream(APPLES, expected=1, hard=True)
    await store.delete_stream(APPLES, expected=2, hard=True)
    assert await store.stream_info(APPLES) is None
    assert await written(store) == []


async def test_the_name_of_a_hard_deleted_stream_is_free_again(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.delete_stream(APPLES, hard=True)
    answer = await append(store, APPLES, *two, expected="no_stream")
    assert (answer.first_version, answer.first_position, answer.repeated) == (1, 3, False)


async def test_readers_step_over_the_gaps_that_a_hard_delete_leaves(store: EventStore) -> None:
    for stream in (PEARS, APPLES, PEARS, APPLES, APPLES, PEARS, APPLES):
        await append(store, stream)
    assert (await store.link("basket", await written(store))).linked == 7
    await store.delete_stream(APPLES, hard=True)
    assert numbers(await store.read_all()) == [1, 3, 6]
    assert numbers(await store.read_all(after=1, limit=1)) == [3]
    assert numbers(await store.read_all(after=4)) == [6]
    assert numbers(await store.read_all(after=6)) == []
    assert numbers(await store.read_stream("$all", backwards=True)) == [6, 3, 1]
    assert await store.stream_version("$all") == 7
    assert numbers(await store.read_stream("basket")) == [1, 3, 6]
    assert numbers(await store.read_stream("basket", after=6, limit=1, backwards=True)) == [3]
    assert await store.stream_version("basket") == 7
    assert [numbers(batch) async for batch in in_batches(store.read_all, size=2)] == [[1, 3], [6]]
    read = partial(store.read_stream, "basket")
    assert [numbers(batch) async for batch in in_batches(read, size=1)] == [[1], [3], [6]]


async def test_what_comes_after_a_hard_delete_does_not_fill_the_gaps(store: EventStore) -> None:
    await append(store, PEARS)
    await append(store, APPLES, *events(3))
    await store.link("basket", await written(store))
    await store.delete_stream(APPLES, hard=True)
    answer = await append(store, PEARS, pear := event())
    assert (answer.first_version, answer.first_position) == (2, 5)
    assert (await store.link("basket", [pear.event_id])).first_number == 5
    assert numbers(await store.read_all()) == [1, 5]
    assert numbers(await store.read_stream("basket")) == [1, 5]


async def test_time_does_not_run_backwards_over_a_gap(store: EventStore) -> None:
    first = await append(store, PEARS)
    await append(store, APPLES)
    await store.delete_stream(APPLES, hard=True)
    assert (await append(store, PEARS)).created_at >= first.created_at


async def test_a_hard_delete_of_a_stream_of_links_removes_the_links_only(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.link("basket", ids(two))
    await store.link("cellar", ids(two))
    await store.delete_stream("basket", hard=True)
    assert await store.stream_info("basket") is None
    assert ids(await store.read_stream(APPLES)) == await written(store) == ids(two)
    assert ids(await store.read_stream("cellar")) == ids(two)


async def test_a_hard_delete_of_a_stream_of_links_and_events_removes_its_own_events(store: EventStore) -> None:
    await append(store, APPLES, apple := event())
    await append(store, PEARS, event())
    await store.link(PEARS, [apple.event_id])
    await append(store, PEARS, event())
    await store.delete_stream(PEARS, hard=True)
    assert await written(store) == [apple.event_id]
    assert ids(await store.read_stream(APPLES)) == [apple.event_id]


async def test_a_hard_delete_removes_the_snapshot(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await append(store, PEARS, *events(2))
    for stream in (APPLES, PEARS):
        await store.record_snapshot(Snapshot(stream, 1, "Fruit", b"{}", b"{}"))
    await store.delete_stream(APPLES, hard=True)
    await append(store, APPLES, *events(2))
    assert (await store.load(APPLES, uuid4())).snapshot is None
    assert (await store.load(PEARS, uuid4())).snapshot is not None


async def test_a_hard_delete_frees_the_claims(store: EventStore) -> None:
    others = Claim("order_number", "A-2", UUID(PEARS))
    for claim in (NUMBER, others):
        await store.reserve(claim, uuid4(), lease_seconds=3600)
        await append(store, str(claim.owner), confirm=[claim])
    await store.delete_stream(APPLES, hard=True)
    assert await store.claim_owner("order_number", "A-1") is None
    assert await store.reserve(Claim("order_number", "A-1", uuid4()), uuid4(), lease_seconds=10) == "reserved"
    assert await store.claim_owner("order_number", "A-2") == others.owner


async def test_a_hard_delete_leaves_the_answers_to_commands(store: EventStore) -> None:
    answer = await store.remember(Answer(uuid4(), "fingerprint", b"{}"))
    await append(store, APPLES)
    await store.delete_stream(APPLES, hard=True)
    assert (await store.recall(answer.command_id, uuid4())).answer == answer


async def test_of_5_deletions_at_once_one_is_done(store: EventStore) -> None:
    await append(store, APPLES)
    attempts = (store.delete_stream(APPLES, hard=turn % 2 == 1) for turn in range(5))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert 1 <= outcomes.count(None) <= 2
    assert {type(outcome) for outcome in outcomes} <= {type(None), StreamDeleted, StreamNotFound}
    assert await store.stream_info(APPLES) is None


async def test_appends_and_links_beside_a_hard_delete_come_out_whole(store: EventStore) -> None:
    for turn in range(10):
        stream, known = f"stream-{turn}", events(3)
        await append(store, stream, *known)
        outcomes = await asyncio.gather(
            append(store, stream, *events(2)),
            store.link("basket", ids(known)),
            store.delete_stream(stream, hard=True),
            append(store, PEARS),
            return_exceptions=True,
        )
        assert isinstance(outcomes[0], Appended)
        assert isinstance(outcomes[1], Linked | EventNotFound)
        assert outcomes[2] is None
        assert isinstance(outcomes[3], Appended)
        left = await store.read_stream(stream)
        assert numbers(left) in ([], [1, 2])
    everything = await store.read_all()
    assert {each.position for each in await store.read_stream("basket")} <= set(numbers(everything))
