"""What an event store is: records and the protocol that every adapter keeps.

An append, a stream, a position and a claim mean the same in PostgreSQL (postgres.py) and in memory (memory.py);
one contract suite holds both to it.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, Self
from uuid import UUID

ALL_STREAM = "$all"
"""The global sequence: every event once, dense, in commit order."""

LAST = 2**63 - 1
"""No position is behind it."""

SPAN = 50_000
"""Positions to go through at a time for events of some types. No index knows types: without a bound, a read for rare
ones would go through all events, and one that is cut off would begin anew."""

ExpectedVersion = int | Literal["any", "no_stream", "stream_exists"]
"""What the stream must look like for an append to be done. A number is its exact version; 0 is an empty stream."""


Start = int | Literal["origin", "current"]
"""Where a new subscription begins: before the first event, behind the last one, or after a number."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to append. `data` and `metadata` are JSON objects in UTF-8; metadata is never empty or absent."""

    event_id: UUID
    type: str
    data: bytes
    metadata: bytes = b"{}"
    causation_id: UUID | None = None
    correlation_id: UUID | None = None


class Strangers(NamedTuple):
    """Events of types that the reader doesn't know, in streams that are its business all the same."""

    known: Sequence[str]
    """The types that it knows."""
    categories: Sequence[str]
    """What its streams are of: what stands before the dot in the type of their first event."""


class RecordedEvent(NamedTuple):
    """An event of a stream that was read. A tuple, because many are made: it takes a third of the time."""

    event_id: UUID
    number: int
    """Its number in the stream that was read: a version, a position in `$all`, or a link's number."""
    position: int
    """Its position in the global sequence, from 1."""
    stream_id: str
    """The stream that it was appended to."""
    version: int
    """Its version in that stream, from 1."""
    type: str
    data: bytes
    metadata: bytes | None
    causation_id: UUID | None
    correlation_id: UUID | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """A business key that one owner may hold: kind `order_number`, key the number, owner the order."""

    kind: str
    key: str
    owner: UUID


@dataclass(frozen=True, slots=True)
class Append:
    """Events for one stream, with the claims that they confirm or give back in the same transaction."""

    stream_id: str
    expected: ExpectedVersion
    events: Sequence[NewEvent]
    confirm: Sequence[Claim] = ()
    release: Sequence[Claim] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """Where the events went. A repeated append gets the first one's answer."""

    first_version: int
    first_position: int
    created_at: datetime
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Linked:
    """What became of the events that were to be linked."""

    first_number: int
    """The number of the first new link; the stream's version if there is none."""
    linked: int
    already: int
    """How many were in the stream already, be it as links or because it is their own."""


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """A stream, whatever is in it. A deleted one is still told of, a purged one is not."""

    stream_id: str
    number: int
    """Grows in the order in which streams are created, with gaps; 0 for `$all`."""
    version: int
    created_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folded state, to spare reading what lies before it. A cache: it may be missing, old or wrong."""

    source_id: str
    source_version: int
    source_type: str
    data: bytes
    metadata: bytes | None


@dataclass(frozen=True, slots=True)
class History:
    """What a command needs of its stream, read at one moment."""

    version: int
    """The stream's version; 0 if there is no such stream."""
    snapshot: Snapshot | None
    """Whatever is kept: it may be ahead of the stream."""
    events: Sequence[RecordedEvent]
    """The events after the snapshot's version, or all of them without one."""
    repeated: RecordedEvent | None
    """The event with the id that was asked for, in whatever stream, if there is one already."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's outcome that left no event, kept because the caller may ask for it again."""

    command_id: UUID
    fingerprint: str
    outcome: bytes
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class Recollection:
    """What is known of a command id: the event it made, and the answer that was kept instead of one."""

    event: RecordedEvent | None
    answer: Answer | None


@dataclass(frozen=True, slots=True)
class BlockedProduct:
    product_id: UUID
    blocked_at: datetime


@dataclass(frozen=True, slots=True)
class KeptProducts:
    """What is kept of an order's products: a cache (see products.py)."""

    version: int
    """Of the order, up to which they are kept; 0 for nothing."""
    blocked: Sequence[UUID]
    """Those of them that must not be sold, by id."""


ReserveOutcome = Literal["reserved", "taken", "leased"]
"""`leased`: another owner has it, but may yet give it back; ask again when the lease is over at the latest."""


class StoreError(Exception):
    """The event store refused."""


class WrongExpectedVersion(StoreError):
    """The stream is at another version than expected: read it again, then decide anew."""

    def __init__(self, stream_id: str, expected: ExpectedVersion, actual: int) -> None:
        super().__init__(f"stream {stream_id} is at version {actual}, expected {expected}")
        self.stream_id, self.expected, self.actual = stream_id, expected, actual


class DuplicateEvent(StoreError):
    """An event with this id exists, and it isn't the one of this append."""


class StreamDeleted(StoreError):
    """The stream was deleted: it takes no more events and can't be read."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"stream {stream_id} was deleted")


class StreamNotFound(StoreError):
    """There is no such stream, or none any more."""

    def __init__(self, stream_id: str) -> None:
        super().__init__(f"there is no stream {stream_id}")


class EventNotFound(StoreError):
    """There is no event with this id."""

    def __init__(self, event_id: UUID) -> None:
        super().__init__(f"there is no event {event_id}")


class ClaimLost(StoreError):
    """The claim isn't held any more: its lease ran out and another took it. Reserve it again."""


class ReservedStream(StoreError):
    """`$all` is the global sequence: choose a stream of its own."""

    def __init__(self) -> None:
        super().__init__(f"{ALL_STREAM} is the global sequence: choose a stream of its own")


class SubscriptionLost(StoreError):
    """The database is away, or another owns the subscription now: stop, then subscribe again to go on."""


class Subscription(Protocol):
    """What the one owner of a subscription has: an endless iterator over batches of what comes after its checkpoint.

    At least once: what was not acknowledged comes again, to whoever is the next owner. One task uses it.
    """

    @property
    def checkpoint(self) -> int:
        """The number of the last event that was acknowledged, 0 for none. It only grows."""
        ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> list[RecordedEvent]:
        """The next events in their order, one at least; waits for them. Raises SubscriptionLost or StreamDeleted."""
        ...

    async def ack(self, event: RecordedEvent) -> None:
        """This event and all before it are done with. Raises SubscriptionLost: another has seen to it, or will."""
        ...


class EventStore(Protocol):
    """The only writer of events, and all that Waybill keeps beside them in the same database."""

    async def append(self, append: Append) -> Appended:
        """Append in one transaction, or not at all.

        Idempotent by event id: the same events in the same stream again give the first answer. Raises
        WrongExpectedVersion, DuplicateEvent, StreamDeleted, ClaimLost or ReservedStream; nothing is written then.
        """
        ...

    async def load(self, stream_id: str, event_id: UUID | None = None) -> History:
        """Snapshot, events after it, and the event `event_id` if it exists, in one round trip."""
        ...

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        """At most `limit` events with a number greater than `after` (backwards: lower, 0 meaning the end).

        Empty for a stream that doesn't exist. `$all` reads the global sequence. Raises StreamDeleted.
        """
        ...

    async def read_all(
        self,
        *,
        after: int = 0,
        until: int = LAST,
        limit: int = 1000,
        types: Sequence[str] | None = None,
        strangers: Strangers | None = None,
    ) -> list[RecordedEvent]:
        """At most `limit` events of the global sequence after position `after`, of these types and these strangers only
        if types are given.

        None behind `until`: where types may be rare, go SPAN positions at a time.
        """
        ...

    async def find_events(self, event_ids: Sequence[UUID]) -> list[RecordedEvent]:
        """Those of these events that exist, in the order of the global sequence, numbered as in their own streams."""
        ...

    async def stream_version(self, stream_id: str) -> int:
        """The version of the stream, 0 if it doesn't exist; for `$all` the head of the global sequence."""
        ...

    async def stream_info(self, stream_id: str) -> StreamInfo | None:
        """The stream as it stands, deleted or not; None if it doesn't exist."""
        ...

    async def list_streams(self, *, after: int = 0, limit: int = 1000) -> list[StreamInfo]:
        """At most `limit` streams whose number is greater than `after`, by their numbers; without `$all`."""
        ...

    async def link(self, stream_id: str, event_ids: Sequence[UUID], *, expected: ExpectedVersion = "any") -> Linked:
        """Put events into one more stream, all in one transaction; those that are in it already are left out.

        So it is idempotent, and when nothing is left to link, nothing is expected. Raises WrongExpectedVersion,
        EventNotFound, StreamDeleted or ReservedStream; nothing is linked then.
        """
        ...

    async def delete_stream(self, stream_id: str, *, expected: ExpectedVersion = "any", hard: bool = False) -> None:
        """Close the stream for reads and appends; its events stay in `$all` and in links.

        `hard` removes it for good: its events from everywhere, its snapshot, its claims, its subscriptions, and the
        links in it. It may be deleted before. Readers step over the gaps that this leaves in other streams.
        Raises StreamNotFound, StreamDeleted, WrongExpectedVersion or ReservedStream.
        """
        ...

    def subscribe(
        self, name: str, *, stream_id: str = ALL_STREAM, start: Start = "origin", batch: int = 1000
    ) -> AbstractAsyncContextManager[Subscription]:
        """Within this block, its one owner: entering it waits for that.

        A subscription is known by its name and stream. `start` counts when it is new, later its checkpoint does.
        `batch` is the most events at a time.
        """
        ...

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        """Keep the snapshot of a stream that exists, unless there is a newer one already that isn't ahead of it."""
        ...

    async def reserve(self, claim: Claim, command_id: UUID, *, lease_seconds: float) -> ReserveOutcome:
        """Claim a business key for `lease_seconds`; an append confirms it for good. Idempotent per owner."""
        ...

    async def release(self, claim: Claim, command_id: UUID) -> bool:
        """Give back what this command reserved, unless an append has confirmed it. Says whether it gave."""
        ...

    async def claim_owner(self, kind: str, key: str) -> UUID | None:
        """Who holds the key for good; None if nobody does."""
        ...

    async def recall(self, command_id: UUID, event_id: UUID) -> Recollection:
        """What is known of a command."""
        ...

    async def remember(self, answer: Answer) -> Answer:
        """Keep the answer, unless one is kept for this command already; gives the one that is kept."""
        ...

    async def blocked_products(self, among: Sequence[UUID] | None = None) -> list[BlockedProduct]:
        """The products that must not be sold, by id; only those of `among` if given."""
        ...

    async def kept_products(self, stream_id: str) -> KeptProducts:
        """How far the order's products are kept, and which of them must not be sold."""
        ...

    async def keep_products(self, stream_id: str, products: Sequence[UUID], *, seen: int, version: int) -> None:
        """Keep these, too: those of the events after `seen` up to `version`, if products are kept up to `seen`."""
        ...

    async def block_product(self, product_id: UUID, *, once: Answer | None = None) -> bool:
        """Says whether it is news.

        With `once`, that answer is kept in the same transaction; nothing is done if its command has one already.
        """
        ...

    async def unblock_product(self, product_id: UUID, *, once: Answer | None = None) -> bool:
        """Says whether it was blocked. `once` is the same as in `block_product`."""
        ...
