"""Short words for appends and reads, so that a test says only what it is about."""

from collections.abc import Sequence
from uuid import UUID, uuid4

from eventstore.store import Append, Appended, Claim, EventStore, ExpectedVersion, NewEvent, RecordedEvent

APPLES = "3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c01"
PEARS = "3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c02"
"""Two streams."""


def event(event_type: str = "Fruit.Picked", data: bytes = b"{}") -> NewEvent:
    return NewEvent(event_id=uuid4(), type=event_type, data=data)


def events(count: int) -> list[NewEvent]:
    return [event() for _ in range(count)]


async def append(
    store: EventStore,
    stream_id: str,
    *new: NewEvent,
    expected: ExpectedVersion = "any",
    confirm: Sequence[Claim] = (),
    release: Sequence[Claim] = (),
) -> Appended:
    """Append the events, or one of no importance."""
    return await store.append(Append(stream_id, expected, new or [event()], confirm, release))


def ids(recorded: Sequence[NewEvent | RecordedEvent]) -> list[UUID]:
    return [each.event_id for each in recorded]


def numbers(recorded: Sequence[RecordedEvent]) -> list[int]:
    return [each.number for each in recorded]


async def written(store: EventStore) -> list[UUID]:
    """Every event of the store, in its order."""
    return ids(await store.read_all(limit=1_000_000))
