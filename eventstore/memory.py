"""The event store in memory: what an append, a position and a claim mean, without a database to look through.

One contract suite holds it and the PostgreSQL adapter to the same behaviour. No method waits in the middle,
so each is atomic. Everything is lost with the process: for tests, and for reading.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from eventstore.kept_in_memory import KeptInMemory
from eventstore.store import (
    ALL_STREAM,
    LAST,
    Append,
    Appended,
    ClaimLost,
    DuplicateEvent,
    EventNotFound,
    ExpectedVersion,
    History,
    KeptProducts,
    Linked,
    NewEvent,
    Recollection,
    RecordedEvent,
    ReservedStream,
    Snapshot,
    Start,
    StreamDeleted,
    StreamInfo,
    StreamNotFound,
    Subscription,
    WrongExpectedVersion,
)
from eventstore.subscriptions import OwnedSubscription, start_after


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Stream:
    """What is in it, its own or linked, by its own numbers. A purge leaves gaps, so it has to know how far it got."""

    number: int
    created_at: datetime
    version: int = 0
    deleted_at: datetime | None = None
    events: list[RecordedEvent] = field(default_factory=list["RecordedEvent"])
    products: tuple[int, frozenset[UUID]] = (0, frozenset())
    """Those that are kept, up to which version."""

    def add(self, event: RecordedEvent) -> None:
        self.version += 1
        self.events.append(event._replace(number=self.version))

    def purge(self, stream_id: str) -> None:
        self.events = [event for event in self.events if event.stream_id != stream_id]


class MemoryStore(KeptInMemory):
    """An EventStore (see store.py) in this process. `clock` says what time it is, with its zone."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        super().__init__(clock)
        self._all = _Stream(0, clock())
        self._streams = {ALL_STREAM: self._all}
        self._created = 0
        self._events: dict[UUID, RecordedEvent] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._checkpoints: dict[tuple[str, str], int] = {}
        self._owners: dict[tuple[str, str], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._subscribers: set[asyncio.Event] = set()

    # --- Writing

    async def append(self, append: Append) -> Appended:
        if append.stream_id == ALL_STREAM:
            raise ReservedStream
        if not append.events:
            raise ValueError("an append needs at least one event")
        _refuse_negative(append.expected)
        ids = {event.event_id for event in append.events}
        if len(ids) < len(append.events):
            raise DuplicateEvent(f"two events of one append to {append.stream_id} have the same id")
        if first := self._first_of_repeated(append):
            return Appended(first.version, first.position, first.created_at, repeated=True)
        version = self._version(append.stream_id)
        if not ids.isdisjoint(self._events):
            raise DuplicateEvent(f"an event of this append to {append.stream_id} exists already, and isn't its own")
        if not all(self._is_held(claim) for claim in append.confirm):
            raise ClaimLost(f"a claim of this append to {append.stream_id} isn't held any more")
        if not _fits(append.expected, version):
            raise WrongExpectedVersion(append.stream_id, append.expected, version)
        first = self._write(append.stream_id, append.events)
        self._settle(append)
        return Appended(first.version, first.position, first.created_at)

    def _first_of_repeated(self, append: Append) -> RecordedEvent | None:
        """The first event of an append that was done before, as it is now."""
        first = self._events.get(append.events[0].event_id)
        if first is None or first.stream_id != append.stream_id:
            return None
        for version, event in enumerate(append.events, first.version):
            known = self._events.get(event.event_id)
            if known is None or (known.stream_id, known.version) != (append.stream_id, version):
                return None
        return first

    def _write(self, stream_id: str, events: Sequence[NewEvent]) -> RecordedEvent:
        stream = self._made(stream_id)
        created_at = max([self._clock(), *(last.created_at for last in self._all.events[-1:])])
        for event in events:
            recorded = RecordedEvent(
                event_id=event.event_id,
                number=stream.version + 1,
                position=self._all.version + 1,
                stream_id=stream_id,
                version=stream.version + 1,
                type=event.type,
                data=event.data,
                metadata=event.metadata,
                causation_id=event.causation_id,
                correlation_id=event.correlation_id,
                created_at=created_at,
            )
            stream.add(recorded)
            self._all.add(recorded)
            self._events[event.event_id] = recorded
        self._tell()
        return self._events[events[0].event_id]

    def _made(self, stream_id: str) -> _Stream:
        if stream_id not in self._streams:
            self._created += 1
            self._streams[stream_id] = _Stream(self._created, self._clock())
        return self._streams[stream_id]

    def _version(self, stream_id: str) -> int:
        """0 if there is no such stream."""
        stream = self._streams.get(stream_id)
        if stream and stream.deleted_at:
            raise StreamDeleted(stream_id)
        return stream.version if stream else 0

    async def link(self, stream_id: str, event_ids: Sequence[UUID], *, expected: ExpectedVersion = "any") -> Linked:
        if stream_id == ALL_STREAM:
            raise ReservedStream
        if not event_ids:
            raise ValueError("a link needs at least one event")
        _refuse_negative(expected)
        version = self._version(stream_id)
        for event_id in event_ids:
            if event_id not in self._events:
                raise EventNotFound(event_id)
        there = {event.event_id for event in self._streams[stream_id].events} if version else set[UUID]()
        news = [event_id for event_id in dict.fromkeys(event_ids) if event_id not in there]
        if not news:
            return Linked(version, 0, len(event_ids))
        if not _fits(expected, version):
            raise WrongExpectedVersion(stream_id, expected, version)
        stream = self._made(stream_id)
        for event_id in news:
            stream.add(self._events[event_id])
        self._tell()
        return Linked(version + 1, len(news), len(event_ids) - len(news))

    async def delete_stream(self, stream_id: str, *, expected: ExpectedVersion = "any", hard: bool = False) -> None:
        if stream_id == ALL_STREAM:
            raise ReservedStream
        _refuse_negative(expected)
        stream = self._streams.get(stream_id)
        if stream is None:
            raise StreamNotFound(stream_id)
        if stream.deleted_at and not hard:
            raise StreamDeleted(stream_id)
        if not _fits(expected, stream.version):
            raise WrongExpectedVersion(stream_id, expected, stream.version)
        if hard:
            self._purge(stream_id)
        else:
            stream.deleted_at = self._clock()
        self._tell()

    def _purge(self, stream_id: str) -> None:
        """The stream, its events everywhere, and all that is kept by its name."""
        del self._streams[stream_id]
        for stream in self._streams.values():
            stream.purge(stream_id)
        self._events = {key: event for key, event in self._events.items() if event.stream_id != stream_id}
        self._snapshots.pop(stream_id, None)
        self._checkpoints = {key: seen for key, seen in self._checkpoints.items() if key[0] != stream_id}
        self._free(stream_id)

    # --- Reading

    async def load(self, stream_id: str, event_id: UUID | None = None) -> History:
        version = self._version(stream_id)
        events = self._streams[stream_id].events if version else []
        snapshot = self._snapshots.get(stream_id) if version else None
        after = snapshot.source_version if snapshot else 0
        later = [event for event in events if event.number > after]
        return History(version, snapshot, later, self._events.get(event_id) if event_id else None)

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        events = self._streams[stream_id].events if self._version(stream_id) else []
        if backwards:
            return [event for event in reversed(events) if event.number < after or after == 0][:limit]
        return [event for event in events if event.number > after][:limit]

    async def read_all(
        self, *, after: int = 0, until: int = LAST, limit: int = 1000, types: Sequence[str] | None = None
    ) -> list[RecordedEvent]:
        wanted = [event for event in self._all.events if types is None or event.type in types]
        return [event for event in wanted if after < event.number <= until][:limit]

    async def find_events(self, event_ids: Sequence[UUID]) -> list[RecordedEvent]:
        found = {event_id: self._events[event_id] for event_id in event_ids if event_id in self._events}
        return sorted(found.values(), key=lambda event: event.position)

    async def stream_version(self, stream_id: str) -> int:
        return self._version(stream_id)

    async def stream_info(self, stream_id: str) -> StreamInfo | None:
        stream = self._streams.get(stream_id)
        return _info(stream_id, stream) if stream else None

    async def list_streams(self, *, after: int = 0, limit: int = 1000) -> list[StreamInfo]:
        later = [_info(name, stream) for name, stream in self._streams.items() if stream.number > max(after, 0)]
        return sorted(later, key=lambda info: info.number)[:limit]

    # --- Subscriptions

    @asynccontextmanager
    async def subscribe(
        self, name: str, *, stream_id: str = ALL_STREAM, start: Start = "origin", batch: int = 1000
    ) -> AsyncGenerator[Subscription]:
        key, after = (stream_id, name), start_after(start)
        self._checkpoints.setdefault(key, self._version(stream_id) if after is None else after)
        async with self._owners[key]:
            ownership = _Ownership(self, key)
            self._subscribers.add(ownership.woken)
            try:
                yield OwnedSubscription(ownership, name, self._checkpoints.setdefault(key, after or 0), batch)
            finally:
                self._subscribers.remove(ownership.woken)

    def advance(self, key: tuple[str, str], seen: int, to: int) -> bool:
        """Move a subscription's checkpoint, if it is where its owner has seen it last."""
        if self._checkpoints.get(key) != seen:
            return False
        self._checkpoints[key] = to
        return True

    def _tell(self) -> None:
        for woken in self._subscribers:
            woken.set()

    # --- What is kept of streams

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        stream = self._streams.get(snapshot.source_id)
        if stream is None:
            return
        held = self._snapshots.get(snapshot.source_id)
        if held is None or held.source_version > stream.version or held.source_version < snapshot.source_version:
            self._snapshots[snapshot.source_id] = snapshot

    async def recall(self, command_id: UUID, event_id: UUID) -> Recollection:
        return Recollection(self._events.get(event_id), self._answers.get(command_id))

    async def kept_products(self, stream_id: str) -> KeptProducts:
        stream = self._streams.get(stream_id)
        version, products = stream.products if stream else (0, frozenset[UUID]())
        return KeptProducts(version, sorted(products & self._blocked.keys()))

    async def keep_products(self, stream_id: str, products: Sequence[UUID], *, seen: int, version: int) -> None:
        stream = self._streams.get(stream_id)
        if stream and stream.products[0] == seen:
            stream.products = version, stream.products[1].union(products)


class _Ownership:
    """Ownership of a subscription (see subscriptions.py) while the block that holds its lock lasts."""

    def __init__(self, store: MemoryStore, key: tuple[str, str]) -> None:
        self.woken = asyncio.Event()
        self._store = store
        self._key = key

    async def read(self, after: int, limit: int) -> list[RecordedEvent]:
        return await self._store.read_stream(self._key[0], after=after, limit=limit)

    async def advance(self, seen: int, to: int) -> bool:
        return self._store.advance(self._key, seen, to)


def _info(stream_id: str, stream: _Stream) -> StreamInfo:
    return StreamInfo(stream_id, stream.number, stream.version, stream.created_at, stream.deleted_at)


def _refuse_negative(expected: ExpectedVersion) -> None:
    if isinstance(expected, int) and expected < 0:
        raise ValueError(f"an expected version is 0 or greater, not {expected}")


def _fits(expected: ExpectedVersion, version: int) -> bool:
    """Whether a stream at this version is what is expected; 0 means that there is no such stream."""
    match expected:
        case "any":
            return True
        case "no_stream":
            return version == 0
        case "stream_exists":
            return version > 0
        case _:
            return version == expected
