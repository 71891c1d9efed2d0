"""Links: an event in one more stream, with a number of its own there, and still the same event."""

import asyncio
from uuid import uuid4

import pytest

from eventstore.store import (
    EventNotFound,
    EventStore,
    ExpectedVersion,
    Linked,
    ReservedStream,
    StreamDeleted,
    WrongExpectedVersion,
)
from tests.contract.appends import APPLES, PEARS, append, event, events, ids, numbers

BASKET = "basket"
"""A stream of links."""


async def test_linked_events_are_read_in_the_order_in_which_they_were_linked(store: EventStore) -> None:
    apples, pears = events(2), events(2)
    await append(store, APPLES, *apples)
    await append(store, PEARS, *pears)
    assert await store.link(BASKET, ids([pears[1], apples[0], pears[0]])) == Linked(1, 3, 0)
    assert await store.link(BASKET, ids([apples[1]])) == Linked(4, 1, 0)
    assert ids(await store.read_stream(BASKET)) == ids([pears[1], apples[0], pears[0], apples[1]])
    assert numbers(await store.read_stream(BASKET)) == [1, 2, 3, 4]
    assert numbers(await store.read_stream(BASKET, backwards=True)) == [4, 3, 2, 1]
    assert await store.stream_version(BASKET) == 4


async def test_a_linked_event_is_the_event_itself_but_for_its_number(store: EventStore) -> None:
    one, two = events(2)
    await append(store, PEARS)
    await append(store, APPLES, one, two)
    await store.link(BASKET, [two.event_id])
    (linked,) = await store.read_stream(BASKET)
    assert (linked.event_id, linked.number) == (two.event_id, 1)
    assert (linked.stream_id, linked.version, linked.position) == (APPLES, 2, 3)
    (own,) = await store.read_stream(APPLES, after=1)
    assert (own.data, own.metadata, own.created_at) == (linked.data, linked.metadata, linked.created_at)


async def test_links_are_no_news_in_the_global_sequence(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.link(BASKET, ids(two))
    assert numbers(await store.read_all()) == [1, 2]
    assert (await append(store, PEARS)).first_position == 3


async def test_an_event_is_linked_to_a_stream_once(store: EventStore) -> None:
    one, two, three = events(3)
    await append(store, APPLES, one, two, three)
    assert await store.link(BASKET, ids([one, two])) == Linked(1, 2, 0)
    assert await store.link(BASKET, ids([one, two])) == Linked(2, 0, 2)
    assert await store.link(BASKET, ids([two, three, one])) == Linked(3, 1, 2)
    assert ids(await store.read_stream(BASKET)) == ids([one, two, three])
    assert numbers(await store.read_stream(BASKET)) == [1, 2, 3]


async def test_an_event_that_is_named_twice_is_linked_once(store: EventStore) -> None:
    one, two = events(2)
    await append(store, APPLES, one, two)
    assert await store.link(BASKET, ids([one, two, one])) == Linked(1, 2, 1)
    assert ids(await store.read_stream(BASKET)) == ids([one, two])


async def test_an_event_is_in_its_own_stream_already(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    assert await store.link(APPLES, ids(two)) == Linked(2, 0, 2)
    assert numbers(await store.read_stream(APPLES)) == [1, 2]


async def test_an_event_is_linked_to_two_streams(store: EventStore) -> None:
    await append(store, APPLES, one := event())
    await store.link(BASKET, [one.event_id])
    await store.link("cellar", [one.event_id])
    assert ids(await store.read_stream(BASKET)) == ids(await store.read_stream("cellar")) == ids([one])


async def test_a_link_of_a_link_is_a_link_to_the_event_itself(store: EventStore) -> None:
    one, two = events(2)
    await append(store, PEARS)
    await append(store, APPLES, one, two)
    await store.link(BASKET, [two.event_id])
    (in_basket,) = await store.read_stream(BASKET)
    await append(store, "cellar")
    await store.link("cellar", ids([in_basket]))
    (in_cellar,) = await store.read_stream("cellar", after=1)
    assert (in_cellar.stream_id, in_cellar.version, in_cellar.position) == (APPLES, 2, 3)
    assert in_cellar.number == 2


async def test_a_stream_may_hold_links_and_events_of_its_own(store: EventStore) -> None:
    await append(store, APPLES, apple := event())
    await append(store, PEARS, pear := event(), expected="no_stream")
    await store.link(PEARS, [apple.event_id], expected=1)
    other = event()
    assert (await append(store, PEARS, other, expected=2)).first_version == 3
    read = await store.read_stream(PEARS)
    assert ids(read) == ids([pear, apple, other])
    assert [(each.number, each.stream_id, each.version) for each in read] == [
        (1, PEARS, 1),
        (2, APPLES, 1),
        (3, PEARS, 3),
    ]
    assert (await store.load(PEARS, uuid4())).events == read


async def test_an_unknown_event_is_not_linked_and_neither_is_what_was_named_with_it(store: EventStore) -> None:
    unknown = uuid4()
    await append(store, APPLES, one := event())
    with pytest.raises(EventNotFound, match=str(unknown)):
        await store.link(BASKET, [one.event_id, unknown, uuid4()])
    assert await store.stream_info(BASKET) is None
    assert await store.link(BASKET, [one.event_id]) == Linked(1, 1, 0)


async def test_neither_skipped_nor_unknown_events_leave_a_hole(store: EventStore) -> None:
    one, two, three = events(3)
    await append(store, APPLES, one, two, three)
    await store.link(BASKET, ids([one]))
    with pytest.raises(EventNotFound):
        await store.link(BASKET, [uuid4(), two.event_id])
    await store.link(BASKET, ids([one, two]))
    await store.link(BASKET, ids([two, one, three]))
    assert numbers(await store.read_stream(BASKET)) == [1, 2, 3]
    assert await store.stream_version(BASKET) == 3


async def test_nothing_is_linked_into_the_global_sequence(store: EventStore) -> None:
    await append(store, APPLES, one := event())
    with pytest.raises(ReservedStream):
        await store.link("$all", [one.event_id])
    assert numbers(await store.read_all()) == [1]


async def test_a_link_without_events_is_a_mistake(store: EventStore) -> None:
    with pytest.raises(ValueError, match="event"):
        await store.link(BASKET, [])


@pytest.mark.parametrize("expected", ["any", "no_stream", 0])
async def test_a_new_stream_of_links_is_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    await append(store, APPLES, one := event())
    assert await store.link(BASKET, [one.event_id], expected=expected) == Linked(1, 1, 0)


@pytest.mark.parametrize("expected", ["stream_exists", 1, 7])
async def test_a_new_stream_of_links_is_not_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    await append(store, APPLES, one := event())
    with pytest.raises(WrongExpectedVersion):
        await store.link(BASKET, [one.event_id], expected=expected)
    assert await store.stream_info(BASKET) is None


@pytest.mark.parametrize("expected", ["any", "stream_exists", 2])
async def test_a_stream_of_two_links_is_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    await append(store, APPLES, *(three := events(3)))
    await store.link(BASKET, ids(three[:2]))
    assert await store.link(BASKET, ids(three), expected=expected) == Linked(3, 1, 2)


@pytest.mark.parametrize("expected", ["no_stream", 0, 1, 3])
async def test_a_stream_of_two_links_is_not_what_these_expect(store: EventStore, expected: ExpectedVersion) -> None:
    await append(store, APPLES, *(three := events(3)))
    await store.link(BASKET, ids(three[:2]))
    with pytest.raises(WrongExpectedVersion) as wrong:
        await store.link(BASKET, ids(three), expected=expected)
    assert (wrong.value.stream_id, wrong.value.actual) == (BASKET, 2)
    assert numbers(await store.read_stream(BASKET)) == [1, 2]


async def test_a_repeated_link_is_no_conflict_whatever_it_expects(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.link(BASKET, ids(two), expected="no_stream")
    assert await store.link(BASKET, ids(two), expected="no_stream") == Linked(2, 0, 2)


async def test_nothing_is_linked_into_a_deleted_stream(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.link(BASKET, ids(two[:1]))
    await store.delete_stream(BASKET)
    for event_id in ids(two):
        with pytest.raises(StreamDeleted):
            await store.link(BASKET, [event_id])


async def test_a_repeated_append_is_known_though_its_events_were_linked(store: EventStore) -> None:
    await append(store, APPLES, *(two := events(2)))
    await store.link(BASKET, ids(two))
    again = await append(store, APPLES, *two)
    assert (again.first_version, again.first_position, again.repeated) == (1, 1, True)


async def test_5_links_at_once_leave_no_hole_and_nothing_twice(store: EventStore) -> None:
    await append(store, APPLES, *(many := events(20)))
    links = (store.link(BASKET, ids(many[turn : turn + 12])) for turn in (0, 2, 4, 6, 8))
    answers = await asyncio.gather(*links)
    assert sum(answer.linked for answer in answers) == 20
    read = await store.read_stream(BASKET)
    assert numbers(read) == list(range(1, 21))
    assert sorted(ids(read)) == sorted(ids(many))
