"""Appending: where events go, what an expected version promises, and what repeating an append does."""

import asyncio
from datetime import timedelta
from itertools import pairwise
from uuid import uuid4

import pytest

from eventstore.store import (
    Append,
    Appended,
    DuplicateEvent,
    EventStore,
    ExpectedVersion,
    NewEvent,
    ReservedStream,
    WrongExpectedVersion,
)
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers, written

# --- Where events go


async def test_the_first_event_of_all_is_version_1_at_position_1(store: EventStore) -> None:
    answer = await append(store, APPLES)
    assert (answer.first_version, answer.first_position, answer.repeated) == (1, 1, False)


async def test_events_follow_on_those_that_are_there(store: EventStore) -> None:
    await append(store, APPLES, *events(2))
    await append(store, PEARS, *events(3))
    answer = await append(store, APPLES, *events(2))
    assert (answer.first_version, answer.first_position) == (3, 6)
    assert await store.stream_version(APPLES) == 4
    assert await store.stream_version(PEARS) == 3
    assert await store.stream_version("$all") == 7


async def test_an_event_is_read_as_it_was_written(store: EventStore) -> None:
    causation, correlation = uuid4(), uuid4()
    picked = NewEvent(uuid4(), "Fruit.Picked", b'{"kg": 1.10}', b'{"by": "ann"}', causation, correlation)
    await append(store, PEARS)
    answer = await append(store, APPLES, picked)
    (read,) = await store.read_stream(APPLES)
    assert (read.event_id, read.type, read.data, read.metadata) == (
        picked.event_id,
        "Fruit.Picked",
        b'{"kg": 1.10}',
        b'{"by": "ann"}',
    )
    assert (read.causation_id, read.correlation_id) == (causation, correlation)
    assert (read.stream_id, read.version, read.number, read.position) == (APPLES, 1, 1, 2)
    assert read.created_at == answer.created_at


async def test_an_event_may_have_no_cause(store: EventStore) -> None:
    await append(store, APPLES, event())
    (read,) = await store.read_stream(APPLES)
    assert (read.causation_id, read.correlation_id, read.metadata) == (None, None, b"{}")


@pytest.mark.parametrize(
    "data",
    [
        '{"name": "Äpfel 🍎 \u202e \ufeff"}'.encode(),
        rb'{"name": "\u0000 \ud800"}',
        b'{"weights": [1.10, 1e400, 123456789012345678901234567890]}',
        b'{"name":"' + b"x" * 1024 * 1024 + b'"}',
    ],
    ids=["unicode", "escapes that text columns refuse", "numbers beyond a float", "1 MiB"],
)
async def test_data_is_kept_byte_for_byte(store: EventStore, data: bytes) -> None:
    await append(store, APPLES, NewEvent(uuid4(), "Fruit.Picked", data, data))
    (read,) = await store.read_stream(APPLES)
    assert read.data == data
    assert read.metadata == data


async def test_streams_and_types_may_have_any_name(store: EventStore) -> None:
    name = "Äpfel, 'frisch' 🍎 {1,2} \\ \" null"
    await append(store, name, event(name))
    (read,) = await store.read_stream(name)
    assert (read.stream_id, read.type) == (name, name)


async def test_8001_events_go_into_a_stream_at_once(store: EventStore) -> None:
    await append(store, PEARS)
    many = events(8001)
    answer = await append(store, APPLES, *many, expected="no_stream")
    assert (answer.first_version, answer.first_position) == (1, 2)
    read = await store.read_stream(APPLES, limit=10_000)
    assert ids(read) == ids(many)
    assert numbers(read) == list(range(1, 8002))
    assert [each.position for each in read] == list(range(2, 8003))


async def test_nothing_is_appended_to_the_global_sequence(store: EventStore) -> None:
    with pytest.raises(ReservedStream):
        await append(store, "$all")
    assert await written(store) == []


async def test_an_append_without_events_is_a_mistake(store: EventStore) -> None:
    with pytest.raises(ValueError, match="event"):
        await store.append(Append(APPLES, "any", []))
    assert await store.stream_version(APPLES) == 0


# --- What the stream must look like


@pytest.mark.parametrize("expected", ["any", "no_stream", 0])
async def test_a_new_stream_is_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    assert (await append(store, APPLES, expected=expected)).first_version == 1


@pytest.mark.parametrize("expected", ["stream_exists", 1, 7])
async def test_a_new_stream_is_not_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    with pytest.raises(WrongExpectedVersion) as wrong:
        await append(store, APPLES, expected=expected)
    assert (wrong.value.stream_id, wrong.value.expected, wrong.value.actual) == (APPLES, expected, 0)
    assert await written(store) == []


@pytest.mark.parametrize("expected", ["any", "stream_exists", 2])
async def test_a_stream_of_two_events_is_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    await append(store, APPLES, *events(2))
    assert (await append(store, APPLES, expected=expected)).first_version == 3


@pytest.mark.parametrize("expected", ["no_stream", 0, 1, 3])
async def test_a_stream_of_two_events_is_not_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    two = events(2)
    await append(store, APPLES, *two)
    with pytest.raises(WrongExpectedVersion) as wrong:
        await append(store, APPLES, expected=expected)
    assert (wrong.value.stream_id, wrong.value.expected, wrong.value.actual) == (APPLES, expected, 2)
    assert await written(store) == ids(two)


async def test_a_version_below_0_is_a_mistake(store: EventStore) -> None:
    with pytest.raises(ValueError, match="0 or greater"):
        await append(store, APPLES, expected=-1)


async def test_a_refused_append_leaves_no_trace(store: EventStore) -> None:
    with pytest.raises(WrongExpectedVersion):
        await append(store, APPLES, *events(3), expected=7)
    assert await store.stream_version(APPLES) == 0
    assert await store.read_stream(APPLES) == []
    answer = await append(store, PEARS, expected="no_stream")
    assert answer.first_position == 1


# --- At once


async def test_4_appends_at_once_may_all_create_a_stream_if_they_expect_nothing(store: EventStore) -> None:
    answers = await asyncio.gather(*(append(store, APPLES, *events(2)) for _ in range(4)))
    assert sorted(answer.first_version for answer in answers) == [1, 3, 5, 7]
    assert numbers(await store.read_stream(APPLES)) == list(range(1, 9))


@pytest.mark.parametrize("expected", ["no_stream", 0])
async def test_of_5_appends_at_once_one_creates_the_stream(store: EventStore, expected: ExpectedVersion) -> None:
    attempts = (append(store, APPLES, expected=expected) for _ in range(5))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(outcome, Appended) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, WrongExpectedVersion) for outcome in outcomes) == 4
    assert await store.stream_version(APPLES) == 1


async def test_of_5_appends_at_once_one_finds_the_version_that_it_expects(store: EventStore) -> None:
    await append(store, APPLES, *events(3))
    attempts = (append(store, APPLES, expected=3) for _ in range(5))
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(outcome, Appended) for outcome in outcomes) == 1
    assert {outcome.actual for outcome in outcomes if isinstance(outcome, WrongExpectedVersion)} == {4}
    assert await store.stream_version(APPLES) == 4


async def test_an_append_that_conflicts_does_not_hurt_its_neighbours(store: EventStore) -> None:
    known = event()
    await append(store, PEARS, known)
    outcomes = await asyncio.gather(
        append(store, APPLES, *events(2)),
        append(store, APPLES, expected=7),
        append(store, APPLES, known),
        append(store, "$all"),
        append(store, APPLES, *events(2)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        Appended,
        WrongExpectedVersion,
        DuplicateEvent,
        ReservedStream,
        Appended,
    ]
    assert numbers(await store.read_stream(APPLES)) == [1, 2, 3, 4]
    assert numbers(await store.read_all()) == [1, 2, 3, 4, 5]


async def test_appends_that_follow_on_each_other_may_be_sent_at_once(store: EventStore) -> None:
    answers = await asyncio.gather(*(append(store, APPLES, expected=version) for version in range(8)))
    assert [answer.first_version for answer in answers] == list(range(1, 9))


async def test_positions_are_dense_and_versions_gapless_whoever_appends_at_once(store: EventStore) -> None:
    streams = [f"stream-{number}" for number in range(8)]
    appends = [(stream, events(1 + turn % 3)) for turn in range(10) for stream in streams]
    answers = await asyncio.gather(*(append(store, stream, *new) for stream, new in appends))
    everything = await store.read_all(limit=1000)
    assert numbers(everything) == list(range(1, sum(len(new) for _, new in appends) + 1))
    for (stream, new), answer in zip(appends, answers, strict=True):
        placed = everything[answer.first_position - 1 :][: len(new)]
        assert ids(placed) == ids(new)
        assert {each.stream_id for each in placed} == {stream}
    for stream in streams:
        read = await store.read_stream(stream)
        assert numbers(read) == list(range(1, len(read) + 1))
        assert all(earlier.position < later.position for earlier, later in pairwise(read))


async def test_time_never_runs_backwards_along_the_global_sequence(store: EventStore) -> None:
    await asyncio.gather(*(append(store, f"stream-{n % 5}", *events(2)) for n in range(40)))
    times = [each.created_at for each in await store.read_all()]
    assert times == sorted(times)
    assert {time.utcoffset() for time in times} == {timedelta(0)}


async def test_events_of_one_append_happened_at_one_moment(store: EventStore) -> None:
    answer = await append(store, APPLES, *events(3))
    assert {each.created_at for each in await store.read_stream(APPLES)} == {answer.created_at}


# --- The same events again


@pytest.mark.parametrize("expected", ["any", "no_stream", "stream_exists", 0, 1, 7])
async def test_a_repeated_append_gets_the_first_answer_whatever_it_expects(
    store: EventStore, expected: ExpectedVersion
) -> None:
    await append(store, PEARS)
    await append(store, APPLES)
    three = events(3)
    first = await append(store, APPLES, *three)
    await append(store, APPLES)
    again = await append(store, APPLES, *three, expected=expected)
    assert again == Appended(first.first_version, first.first_position, first.created_at, repeated=True)
    assert (again.first_version, again.first_position) == (2, 3)
    assert await store.stream_version(APPLES) == 5
    assert await store.stream_version("$all") == 6


async def test_of_an_append_that_is_sent_5_times_at_once_one_is_written(store: EventStore) -> None:
    two = events(2)
    answers = await asyncio.gather(*(append(store, APPLES, *two, expected=0) for _ in range(5)))
    assert {(answer.first_version, answer.first_position) for answer in answers} == {(1, 1)}
    assert sorted(answer.repeated for answer in answers) == [False, True, True, True, True]
    assert await written(store) == ids(two)


async def test_an_event_of_one_stream_is_a_duplicate_in_another(store: EventStore) -> None:
    known = event()
    await append(store, APPLES, known)
    with pytest.raises(DuplicateEvent):
        await append(store, PEARS, known)
    assert await written(store) == [known.event_id]
    assert await store.stream_version(PEARS) == 0


async def test_known_events_with_others_between_them_are_duplicates(store: EventStore) -> None:
    one, two, three = events(3)
    await append(store, APPLES, one, two)
    for clash in ([two, one], [one, two, three], [three, one, two], [one, three], [three, two]):
        with pytest.raises(DuplicateEvent):
            await append(store, APPLES, *clash)
    await append(store, PEARS)
    await append(store, APPLES, three)
    with pytest.raises(DuplicateEvent):
        await append(store, APPLES, one, three)
    assert await store.stream_version(APPLES) == 3


async def test_an_event_can_not_be_twice_in_one_append(store: EventStore) -> None:
    one, two = events(2)
    with pytest.raises(DuplicateEvent):
        await append(store, APPLES, one, two, one)
    assert await written(store) == []


async def test_of_appends_to_two_streams_that_share_an_event_one_is_written(store: EventStore) -> None:
    shared = event()
    outcomes = await asyncio.gather(
        *(append(store, stream, event(), shared) for stream in (APPLES, PEARS)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Appended", "DuplicateEvent"]
    assert len(await written(store)) == 2


async def test_a_repetition_is_known_even_when_its_events_came_in_two_appends(store: EventStore) -> None:
    one, two, three = events(3)
    first = await append(store, APPLES, one)
    await append(store, APPLES, two, three)
    assert await append(store, APPLES, one, two) == Appended(1, 1, first.created_at, repeated=True)
