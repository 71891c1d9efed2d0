"""The checker of the races is right to say nothing: it finds each fault that is planted in a good history."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from uuid import uuid4

import pytest

from eventstore.memory import MemoryStore
from eventstore.store import Append, RecordedEvent, WrongExpectedVersion
from tests.chaos.checker import Attempt, History, Tenure, violations
from tests.chaos.histories import history
from tests.contract.appends import events, ids

STREAMS = ("apples", "pears")


@pytest.fixture
async def good() -> History:
    """Ten appends of two events by two writers, one refused, one of unknown fate, and two owners of a subscription."""
    store, clock = MemoryStore(), count(1)
    attempts: list[Attempt] = []
    for turn in range(10):
        stream, new = STREAMS[turn % 2], events(2)
        expected = turn if turn % 4 == 0 else "any"
        attempt = Attempt(f"writer-{turn % 2}", stream, expected, tuple(ids(new)), next(clock))
        answer = await store.append(Append(stream, expected, new))
        if turn != 5:
            attempt.outcome, attempt.ended = "appended", next(clock)
            attempt.first_version, attempt.first_position = answer.first_version, answer.first_position
        attempts.append(attempt)
    late = events(1)
    with pytest.raises(WrongExpectedVersion):
        await store.append(Append("apples", 7, late))
    attempts.append(Attempt("writer-0", "apples", 7, tuple(ids(late)), next(clock), next(clock), "refused"))
    everything = [(event.number, event.event_id) for event in await store.read_all()]
    owners = [Tenure(0, everything[:12], tried=12, acknowledged=8), Tenure(12, everything[12:], 20, 20)]
    return await history(store, STREAMS, attempts, owners)


async def test_a_good_history_is_not_complained_of(good: History) -> None:
    assert violations(good) == []


def rewritten(good: History, everything: Sequence[RecordedEvent]) -> History:
    """The store with these events instead, numbered densely as if nothing had happened."""
    versions = {stream: count(1) for stream in STREAMS}
    anew = [
        event._replace(number=position, position=position, version=next(versions[event.stream_id]))
        for position, event in enumerate(everything, 1)
    ]
    streams = {
        stream: [event._replace(number=event.version) for event in anew if event.stream_id == stream]
        for stream in STREAMS
    }
    heads = {"$all": len(anew)} | {stream: len(found) for stream, found in streams.items()}
    return replace(good, everything=anew, streams=streams, heads=heads, tenures=None)


def a_dropped_write(good: History) -> History:
    return rewritten(good, [*good.everything[:6], *good.everything[8:]])


def a_dropped_half(good: History) -> History:
    """Of an append of which nobody knows whether it was done."""
    return rewritten(good, [*good.everything[:10], *good.everything[11:]])


def a_doubled_write(good: History) -> History:
    return rewritten(good, [*good.everything, *good.everything[6:8]])


def a_swapped_pair(good: History) -> History:
    swapped = list(good.everything)
    swapped[6], swapped[7] = swapped[7], swapped[6]
    return rewritten(good, swapped)


def a_swapped_pair_of_appends(good: History) -> History:
    """Each in its own stream, so that only the clock can tell: the answers are made to fit."""
    swapped = [*good.everything[:6], *good.everything[8:10], *good.everything[6:8], *good.everything[10:]]
    history = rewritten(good, swapped)
    place = {event.event_id: event for event in history.everything}
    attempts = [
        replace(attempt, first_position=place[attempt.event_ids[0]].position)
        if attempt.outcome == "appended"
        else attempt
        for attempt in good.attempts
    ]
    return replace(history, attempts=attempts)


def a_skipped_gap(good: History) -> History:
    """A position that nobody has."""
    later = [event._replace(number=event.number + 1, position=event.position + 1) for event in good.everything[8:]]
    return replace(good, everything=[*good.everything[:8], *later], tenures=None)


def a_hole_in_a_stream(good: History) -> History:
    later = [event._replace(number=event.number + 1) for event in good.streams["pears"][4:]]
    return replace(good, streams={**good.streams, "pears": [*good.streams["pears"][:4], *later]})


def a_head_that_lags(good: History) -> History:
    return replace(good, heads={**good.heads, "$all": good.heads["$all"] - 1})


def a_refused_append_that_was_done(good: History) -> History:
    refused = good.attempts[-1]
    (ghost,) = [good.everything[0]._replace(event_id=event_id) for event_id in refused.event_ids]
    return rewritten(good, [*good.everything, ghost])


def an_event_that_nobody_sent(good: History) -> History:
    return rewritten(good, [*good.everything, good.everything[0]._replace(event_id=uuid4())])


def an_append_at_another_version_than_expected(good: History) -> History:
    return replace(good, attempts=[replace(good.attempts[0], expected=3), *good.attempts[1:]])


def time_that_runs_backwards(good: History) -> History:
    first, *others = good.everything
    return replace(good, everything=[first._replace(created_at=first.created_at.replace(year=3000)), *others])


def owners(good: History, *tenures: Tenure) -> History:
    return replace(good, tenures=tenures)


def an_event_that_an_owner_skipped(good: History) -> History:
    assert good.tenures
    first, second = good.tenures
    return owners(good, replace(first, saw=[*first.saw[:3], *first.saw[4:]]), second)


def an_event_that_an_owner_saw_twice(good: History) -> History:
    assert good.tenures
    first, second = good.tenures
    return owners(good, first, replace(second, saw=[*second.saw[:3], *second.saw[2:]]))


def an_owner_that_goes_on_too_late(good: History) -> History:
    assert good.tenures
    first, second = good.tenures
    return owners(good, first, replace(second, checkpoint=14, saw=second.saw[2:]))


def an_owner_that_goes_back_behind_what_was_acknowledged(good: History) -> History:
    assert good.tenures
    first, second = good.tenures
    return owners(good, first, replace(second, checkpoint=6, saw=[*first.saw[6:], *second.saw]))


def an_end_that_nobody_saw(good: History) -> History:
    assert good.tenures
    first, second = good.tenures
    return owners(good, first, replace(second, saw=second.saw[:-2], tried=18, acknowledged=18))


@pytest.mark.parametrize(
    ("plant", "complaint"),
    [
        (a_dropped_write, "0 of 2 events are there, it was appended"),
        (a_dropped_half, "1 of 2 events are there, it was unknown"),
        (a_doubled_write, "is there 2 times"),
        (a_swapped_pair, "not one behind the other"),
        (a_swapped_pair_of_appends, "was appended after"),
        (a_skipped_gap, "$all: 10 is not the number that is due"),
        (a_hole_in_a_stream, "pears: 6 is not the number that is due"),
        (a_head_that_lags, "says that it is at 19, has 20 events"),
        (a_refused_append_that_was_done, "was refused and is there"),
        (an_event_that_nobody_sent, "nobody has sent"),
        (an_append_at_another_version_than_expected, "expected 3 before it"),
        (time_that_runs_backwards, "time runs backwards at 2"),
        (an_event_that_an_owner_skipped, "did not see what follows"),
        (an_event_that_an_owner_saw_twice, "did not see what follows"),
        (an_owner_that_goes_on_too_late, "the next owner goes on behind 14"),
        (an_owner_that_goes_back_behind_what_was_acknowledged, "the next owner goes on behind 6"),
        (an_end_that_nobody_saw, "18 events were handled, 20 are there"),
    ],
)
def test_a_planted_fault_is_found(good: History, plant: Callable[[History], History], complaint: str) -> None:
    assert any(complaint in violation for violation in violations(plant(good)))
