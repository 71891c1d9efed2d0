"""The event store in memory: what an append, a position and a claim mean, without a database to look through.

One contract suite holds it and the PostgreSQL adapter to the same behaviour. No method waits in the middle,
so each is atomic. Everything is lost with the process: for tests, and for reading.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from eventstore.store import (
    ALL_STREAM,
    Answer,
    Append,
    Appended,
    BlockedProduct,
    Claim,
    ClaimLost,
    DuplicateEvent,
    ExpectedVersion,
    History,
    NewEvent,
    Recollection,
    RecordedEvent,
    ReservedStream,
    ReserveOutcome,
    Snapshot,
    WrongExpectedVersion,
)

_BLOCKED_FROM_THE_START = UUID("55e76be0-b83e-4b3c-addd-f3d9e8835be2")


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Held:
    """A claim's holder. A confirmed claim has no lease."""

    owner: UUID
    command_id: UUID
    lease_until: datetime | None


class MemoryStore:
    """An EventStore (see store.py) in this process. `clock` says what time it is, with its zone."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self._clock = clock
        self._all: list[RecordedEvent] = []
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._events: dict[UUID, RecordedEvent] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._claims: dict[tuple[str, str], _Held] = {}
        self._answers: dict[UUID, Answer] = {}
        self._blocked = {_BLOCKED_FROM_THE_START: clock()}

    async def append(self, append: Append) -> Appended:
        if append.stream_id == ALL_STREAM:
            raise ReservedStream(f"{ALL_STREAM} is the global sequence: append to a stream of its own")
        if not append.events:
            raise ValueError("an append needs at least one event")
        if isinstance(append.expected, int) and append.expected < 0:
            raise ValueError(f"an expected version is 0 or greater, not {append.expected}")
        if first := self._first_of_repeated(append):
            return Appended(first.version, first.position, first.created_at, repeated=True)
        stream = self._streams.get(append.stream_id, [])
        if not all(self._is_held(claim) for claim in append.confirm):
            raise ClaimLost(f"a claim of this append to {append.stream_id} isn't held any more")
        if not _fits(append.expected, len(stream)):
            raise WrongExpectedVersion(append.stream_id, append.expected, len(stream))
        first = self._write(append.stream_id, append.events)
        self._settle(append)
        return Appended(first.version, first.position, first.created_at)

    def _first_of_repeated(self, append: Append) -> RecordedEvent | None:
        """The first event of an append that was done before; None if none of its events exists."""
        ids = [event.event_id for event in append.events]
        known = [self._events[event_id] for event_id in ids if event_id in self._events]
        if not known and len(set(ids)) == len(ids):
            return None
        if known:
            start = known[0].version - 1
            there = self._streams.get(append.stream_id, [])[start : start + len(ids)]
            if ids == [event.event_id for event in there]:
                return known[0]
        raise DuplicateEvent(f"an event of this append to {append.stream_id} exists already, and isn't its own")

    def _write(self, stream_id: str, events: Sequence[NewEvent]) -> RecordedEvent:
        stream = self._streams.setdefault(stream_id, [])
        created_at = max([self._clock(), *(last.created_at for last in self._all[-1:])])
        first = len(stream)
        for event in events:
            recorded = RecordedEvent(
                event_id=event.event_id,
                number=len(stream) + 1,
                position=len(self._all) + 1,
                stream_id=stream_id,
                version=len(stream) + 1,
                type=event.type,
                data=event.data,
                metadata=event.metadata,
                causation_id=event.causation_id,
                correlation_id=event.correlation_id,
                created_at=created_at,
            )
            stream.append(recorded)
            self._all.append(recorded)
            self._events[event.event_id] = recorded
        return stream[first]

    def _settle(self, append: Append) -> None:
        """Confirm and give back the claims that the append carries."""
        for claim in append.confirm:
            key = claim.kind, claim.key
            self._claims[key] = replace(self._claims[key], lease_until=None)
        for claim in append.release:
            if self._is_held(claim):
                del self._claims[claim.kind, claim.key]

    def _is_held(self, claim: Claim) -> bool:
        """Whether its owner holds it: a lease that has run out still counts, until another takes the key."""
        held = self._claims.get((claim.kind, claim.key))
        return held is not None and held.owner == claim.owner

    async def load(self, stream_id: str, event_id: UUID) -> History:
        stream = self._streams.get(stream_id, [])
        snapshot = self._snapshots.get(stream_id)
        if snapshot and snapshot.source_version > len(stream):
            snapshot = None
        after = snapshot.source_version if snapshot else 0
        return History(len(stream), snapshot, stream[after:], self._events.get(event_id))

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        stream = self._numbered(stream_id)
        if backwards:
            return [event for event in reversed(stream) if event.number < after or after == 0][:limit]
        return [event for event in stream if event.number > after][:limit]

    async def read_all(
        self, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> list[RecordedEvent]:
        wanted = [event for event in self._numbered(ALL_STREAM) if types is None or event.type in types]
        return [event for event in wanted if event.number > after][:limit]

    def _numbered(self, stream_id: str) -> list[RecordedEvent]:
        """The events of a stream by their numbers in it; in the global sequence those are the positions."""
        if stream_id == ALL_STREAM:
            return [replace(event, number=event.position) for event in self._all]
        return self._streams.get(stream_id, [])

    async def stream_version(self, stream_id: str) -> int:
        return len(self._numbered(stream_id))

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        held = self._snapshots.get(snapshot.source_id)
        if held is None or held.source_version < snapshot.source_version:
            self._snapshots[snapshot.source_id] = snapshot

    async def reserve(self, claim: Claim, command_id: UUID, *, lease_seconds: float) -> ReserveOutcome:
        key, now = (claim.kind, claim.key), self._clock()
        held = self._claims.get(key)
        if held and held.lease_until is None:
            return "reserved" if held.owner == claim.owner else "taken"
        if held and held.lease_until and held.owner != claim.owner and held.lease_until >= now:
            return "leased"
        self._claims[key] = _Held(claim.owner, command_id, now + timedelta(seconds=lease_seconds))
        return "reserved"

    async def release(self, claim: Claim, command_id: UUID) -> bool:
        held = self._claims.get((claim.kind, claim.key))
        if not held or (held.owner, held.command_id) != (claim.owner, command_id) or held.lease_until is None:
            return False
        del self._claims[claim.kind, claim.key]
        return True

    async def claim_owner(self, kind: str, key: str) -> UUID | None:
        held = self._claims.get((kind, key))
        return held.owner if held and held.lease_until is None else None

    async def recall(self, command_id: UUID, event_id: UUID) -> Recollection:
        return Recollection(self._events.get(event_id), self._answers.get(command_id))

    async def remember(self, answer: Answer) -> Answer:
        return self._answers.setdefault(answer.command_id, answer)

    async def blocked_products(self, among: Sequence[UUID] | None = None) -> list[BlockedProduct]:
        return [
            BlockedProduct(product_id, self._blocked[product_id])
            for product_id in sorted(self._blocked)
            if among is None or product_id in among
        ]

    async def block_product(self, product_id: UUID) -> bool:
        news = product_id not in self._blocked
        self._blocked.setdefault(product_id, self._clock())
        return news

    async def unblock_product(self, product_id: UUID) -> bool:
        return self._blocked.pop(product_id, None) is not None


def _fits(expected: ExpectedVersion, version: int) -> bool:
    """Whether a stream at this version is what the append expects; 0 means that there is no such stream."""
    match expected:
        case "any":
            return True
        case "no_stream":
            return version == 0
        case "stream_exists":
            return version > 0
        case _:
            return version == expected
