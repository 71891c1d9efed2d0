"""What a history of appends, kept by those who made them, says about the events that are there in the end.

`violations` is a plain function over three accounts: what the writers were told, what the store holds, and what the
owners of one subscription saw. An empty list means that they agree.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal
from uuid import UUID

from eventstore.store import ExpectedVersion, RecordedEvent


@dataclass
class Attempt:
    """One call of `append`, by its caller. Times are of one clock for all processes of the machine."""

    writer: str
    stream_id: str
    expected: ExpectedVersion
    event_ids: tuple[UUID, ...]
    began: float
    ended: float | None = None
    """None: the caller did not live to hear of it."""
    outcome: Literal["appended", "refused", "unknown"] = "unknown"
    first_version: int = 0
    first_position: int = 0


@dataclass
class Tenure:
    """What one owner of the subscription saw, from the moment it owned it."""

    checkpoint: int
    saw: list[tuple[int, UUID]] = field(default_factory=list[tuple[int, UUID]])
    tried: int = 0
    """The last number that it wanted to acknowledge; whether it has moved the checkpoint is another question."""
    acknowledged: int = 0
    """The last number that the store has confirmed."""


@dataclass
class History:
    attempts: Sequence[Attempt]
    everything: Sequence[RecordedEvent]
    """`$all` as it is in the end."""
    streams: Mapping[str, Sequence[RecordedEvent]]
    """Each stream as it is in the end."""
    heads: Mapping[str, int]
    """The version that each stream, and `$all`, says that it has."""
    tenures: Sequence[Tenure] | None = None
    """None: nobody had subscribed."""


def violations(history: History) -> list[str]:
    """Every disagreement, in words.

    - `$all` has the positions 1 to its head, every event once, and time never runs backwards along it;
    - a stream has the versions 1 to its own, and its events are those of `$all`, in that order;
    - an append is there as a whole or not at all, its events one behind the other;
    - what was acknowledged is where the answer said, at the version that was expected; what was refused isn't there;
      nothing is there that nobody has sent;
    - an append that began after another was acknowledged is behind it, whichever processes made the two;
    - the subscription's owners, each up to where the next one went on, have seen all of `$all` once and in order.
    """
    return [
        *_sequence("$all", history.everything, history.heads["$all"]),
        *_time(history.everything),
        *_streams(history),
        *_placed(history),
        *_foreign(history),
        *_real_time(history.attempts),
        *(_seen(history.tenures, history.everything) if history.tenures is not None else ()),
    ]


def _sequence(name: str, events: Sequence[RecordedEvent], head: int) -> Iterator[str]:
    numbers = [event.number for event in events]
    if numbers != list(range(1, len(events) + 1)):
        wrong = next(number for number, due in zip(numbers, range(1, len(events) + 1), strict=True) if number != due)
        yield f"{name}: {wrong} is not the number that is due"
    if head != len(events):
        yield f"{name}: says that it is at {head}, has {len(events)} events"
    for event_id, count in Counter(event.event_id for event in events).items():
        if count > 1:
            yield f"{name}: event {event_id} is there {count} times"


def _time(everything: Sequence[RecordedEvent]) -> Iterator[str]:
    for earlier, later in pairwise(everything):
        if later.created_at < earlier.created_at:
            yield f"$all: time runs backwards at {later.number}"


def _streams(history: History) -> Iterator[str]:
    by_stream: dict[str, list[tuple[int, UUID, int]]] = defaultdict(list)
    for event in history.everything:
        by_stream[event.stream_id].append((event.version, event.event_id, event.position))
    for stream_id in by_stream.keys() | history.streams.keys():
        events = history.streams.get(stream_id, ())
        yield from _sequence(stream_id, events, history.heads.get(stream_id, 0))
        if [(event.number, event.event_id, event.position) for event in events] != by_stream[stream_id]:
            yield f"{stream_id}: is not what $all has of it"


def _placed(history: History) -> Iterator[str]:
    place = {event.event_id: event for event in history.everything}
    stored_for = {attempt.event_ids for attempt in history.attempts if attempt.outcome != "refused"}
    for attempt in history.attempts:
        found = [place[event_id] for event_id in attempt.event_ids if event_id in place]
        what = f"append of {attempt.event_ids[0]} to {attempt.stream_id} by {attempt.writer}"
        if attempt.outcome == "refused":
            if found and attempt.event_ids not in stored_for:
                yield f"{what}: was refused and is there"
            continue
        if not found and attempt.outcome == "unknown":
            continue
        if len(found) < len(attempt.event_ids):
            yield f"{what}: {len(found)} of {len(attempt.event_ids)} events are there, it was {attempt.outcome}"
            continue
        steps = [
            (later.position - earlier.position, later.version - earlier.version) for earlier, later in pairwise(found)
        ]
        if {event.stream_id for event in found} != {attempt.stream_id} or set(steps) - {(1, 1)}:
            yield f"{what}: its events are not one behind the other in its stream"
        answer = found[0].version, found[0].position
        if attempt.outcome == "appended" and answer != (attempt.first_version, attempt.first_position):
            yield f"{what}: was told {attempt.first_version, attempt.first_position}, is at {answer}"
        if isinstance(attempt.expected, int) and found[0].version != attempt.expected + 1:
            yield f"{what}: is at version {found[0].version}, expected {attempt.expected} before it"


def _foreign(history: History) -> Iterator[str]:
    sent = {event_id for attempt in history.attempts for event_id in attempt.event_ids}
    for event in history.everything:
        if event.event_id not in sent:
            yield f"$all: nobody has sent event {event.event_id} at {event.number}"


def _real_time(attempts: Sequence[Attempt]) -> Iterator[str]:
    """Each beside the last of those that were acknowledged before it began."""
    # An append that was sent twice is where its first sending has put it.
    first_sent: dict[UUID, Attempt] = {}
    for attempt in sorted(attempts, key=lambda attempt: attempt.began):
        first_sent.setdefault(attempt.event_ids[0], attempt)
    done = [attempt for attempt in first_sent.values() if attempt.outcome == "appended" and attempt.ended is not None]
    endings = sorted(done, key=lambda attempt: attempt.ended or 0)
    last, i = 0, 0
    for attempt in done:
        while (endings[i].ended or 0) < attempt.began:
            last = max(last, endings[i].first_position)
            i += 1
        if attempt.first_position < last:
            yield f"$all: {attempt.first_position} was appended after {last} had been acknowledged"


def _seen(tenures: Sequence[Tenure], everything: Sequence[RecordedEvent]) -> Iterator[str]:
    """An event is handled by the owner whose acknowledgement has moved the checkpoint over it.

    Whatever an owner saw beyond that comes again to the next one, which is what at least once means.
    """
    there = [(event.number, event.event_id) for event in everything]
    # In the order in which they owned it: the checkpoint only moves forward.
    in_turn = sorted(tenures, key=lambda tenure: (tenure.checkpoint, tenure.acknowledged, tenure.tried))
    if not in_turn or in_turn[0].checkpoint != 0:
        yield "subscription: nobody has seen the beginning"
        return
    handled: list[tuple[int, UUID]] = []
    ends = [tenure.checkpoint for tenure in in_turn[1:]] + [in_turn[-1].acknowledged]
    for tenure, end in zip(in_turn, ends, strict=True):
        if tenure.saw != there[tenure.checkpoint : tenure.checkpoint + len(tenure.saw)]:
            yield f"subscription: the owner from {tenure.checkpoint} on did not see what follows, in order and once"
        if not tenure.acknowledged <= end <= max(tenure.tried, tenure.checkpoint):
            yield f"subscription: acknowledged up to {tenure.acknowledged}, but the next owner goes on behind {end}"
        handled += [(number, event_id) for number, event_id in tenure.saw if number <= end]
    if handled != there:
        yield f"subscription: {len(handled)} events were handled, {len(there)} are there"
