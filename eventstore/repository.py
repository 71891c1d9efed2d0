"""Aggregates as they are now: the snapshot, if it is any good, and the events after it, folded."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog

from domain.aggregates import Aggregate
from domain.values import Value
from eventstore.batches import in_batches
from eventstore.codec import decode, decode_snapshot
from eventstore.store import EventStore, History, RecordedEvent

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=Value)
PAGE = 1000


@dataclass(frozen=True, slots=True)
class Loaded(Generic[S]):
    """An aggregate at one moment."""

    state: S
    version: int
    repeated: RecordedEvent | None
    """The event that this command made before, if it did."""


async def load(
    store: EventStore, aggregate: Aggregate[Any, S, Any], stream_id: str, event_id: UUID | None = None
) -> Loaded[S]:
    """The aggregate in `stream_id`, and the event `event_id` if there is one. One round trip with a good snapshot."""
    history = await store.load(stream_id, event_id)
    start = _from_snapshot(aggregate, history)
    events = history.events
    if start is None and history.snapshot is not None:
        events = await read_whole(store, stream_id)
    return Loaded(fold(aggregate, events, start), history.version, history.repeated)


def fold(aggregate: Aggregate[Any, S, Any], events: Iterable[RecordedEvent], state: S | None = None) -> S:
    """The state after recorded events. What isn't an event of this aggregate is stepped over."""
    decoded = (event for recorded in events for event in decode(recorded))
    return aggregate.fold((event for event in decoded if isinstance(event, aggregate.events)), state)


async def read_whole(store: EventStore, stream_id: str) -> list[RecordedEvent]:
    """All events of a stream."""
    pages = in_batches(partial(store.read_stream, stream_id), size=PAGE)
    return [event async for page in pages for event in page]


def _from_snapshot(aggregate: Aggregate[Any, S, Any], history: History) -> S | None:
    """The state to begin with; None if there is no snapshot that is any good."""
    snapshot = history.snapshot
    if snapshot is None:
        return None
    ahead = snapshot.source_version > history.version
    state = None if ahead else decode_snapshot(aggregate, snapshot)
    if state is None:
        _say_ignored(snapshot.source_id, snapshot.source_version, "ahead of its stream" if ahead else "not readable")
    return state


@lru_cache(maxsize=10_000)
def _say_ignored(stream_id: str, version: int, reason: str) -> None:
    """Once for each snapshot, and not with every command until the next one takes its place."""
    log.warning("snapshot.ignored", stream_id=stream_id, version=version, reason=reason)
