"""One build while it is ours: reads the events after its checkpoint, applies them, and parks what can't be applied.

A batch's rows, its parked events and its checkpoint are one transaction that begins by asking whether the build is
still ours: an owner that was paused, and comes back after another has taken over, writes nothing.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import asyncpg
import structlog
from prometheus_client import Counter, Gauge

from eventstore.codec import UndecodableEvent
from eventstore.listener import wait_for_hint
from eventstore.statements import load_statements
from eventstore.store import ALL_STREAM, EventStore, RecordedEvent
from projections import builds, parking
from projections.builds import Build
from projections.faults import describe, is_fault
from projections.parking import Parked, Parking
from projections.projection import Happened, Projection

if TYPE_CHECKING:
    from projections.projection import Connection

T = TypeVar("T")

log = structlog.get_logger(__name__)

UNDECODABLE = Counter(
    "waybill_projection_undecodable_events",
    "Events that a projection left out, because their data isn't what their type says, as was known at adoption.",
    ["projection"],
)
PARKED = Counter("waybill_projection_parked_events", "Events that a projection could not apply.", ["projection"])
HELD_UP = Gauge(
    "waybill_projection_held_up_streams",
    "Streams of whose events some are parked, as the projection's owner knows.",
    ["projection"],
)

_SQL = load_statements("projections", "runner.sql")
_SMALLEST_BATCH = 100
# Seconds before an event that can't be applied is tried again.
_PAUSES = (0.05, 0.25)
_REVISITED = 500


class LeaseLost(Exception):
    """Another worker has taken the projection over, or its checkpoint was moved by hand."""


class AheadOfEvents(Exception):
    """The checkpoint is beyond the last event: the rows were made from the events of another event store, or of this
    one before an older backup was restored. They have to be projected again from the beginning.
    """


@dataclass(frozen=True)
class Manner:
    """How this process runs projections."""

    store: EventStore
    read_store_url: str
    lease: timedelta
    look: float
    """Seconds between two looks for events, at most."""
    batch: int
    """Events of one transaction, at most."""
    reported: Callable[[RecordedEvent], bool]
    """Whether it was said at adoption that an event can't be read."""


@dataclass(frozen=True, slots=True)
class Page:
    """Events that were read together."""

    events: Sequence[RecordedEvent]
    reaching: int
    """Up to this position there are no others of the projection's types."""
    full: bool
    """There may be more."""


class Pace:
    """Events a second, lately."""

    _SECONDS = 5.0

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def at(self, position: int) -> float:
        now = time.monotonic()
        self._seen.append((now, position))
        while len(self._seen) > 2 and self._seen[1][0] < now - self._SECONDS:
            self._seen.popleft()
        began, first = self._seen[0]
        return (position - first) / (now - began) if now > began else 0.0


class Following:
    """Follows the events, for the build that `owner` owns."""

    def __init__(
        self,
        connection: "Connection",
        projection: Projection,
        build: Build,
        *,
        owner: str,
        manner: Manner,
        woken: asyncio.Event,
    ) -> None:
        self._connection = connection
        self._projection = projection
        self._build = build
        self._owner = owner
        self._manner = manner
        self._woken = woken
        self._log = log.bind(projection=build.key)
        self._pace = Pace()
        self.checkpoint = 0
        """The position up to which the events have been seen."""
        self._held: dict[str, str] = {}
        """Streams whose events wait, by the usual form of their names."""
        self._discarded: set[int] = set()
        self._again: dict[int, Parked] = {}
        """What is parked of the events that are looked at again just now."""
        self._revisit_at = 0.0
        self._last_fault = ""
        self.progress: Callable[[], None] = lambda: None
        """Called after each step that went well."""

    async def follow(self) -> None:
        """Apply what comes after the checkpoint, batch by batch; wait where there is nothing.

        For ever; a next build's until it is the live one. Raises LeaseLost.
        """
        await self._begin()
        size = min(_SMALLEST_BATCH, self._manner.batch)
        ahead: asyncio.Task[Page] | None = None
        try:
            while True:
                page = await self._holding(ahead or self._reading(self.checkpoint, size))
                # The event store looks for the next page while the read store takes this one.
                ahead = self._reading(page.reaching, size) if page.full else None
                began = time.monotonic()
                if page.reaching > self.checkpoint:
                    await self._settle(page.events, page.reaching)
                else:
                    await self._renew()
                took = time.monotonic() - began
                size = next_batch_size(
                    size, full=page.full, took=took, patience=self._manner.look, most=self._manner.batch
                )
                revisited = await self._revisit()
                self.progress()
                if page.full or revisited:
                    continue
                if self._build.stage == "next" and await self._switch():
                    return
                # What has come since the page was begun has woken us already.
                await wait_for_hint(self._woken, self._manner.look)
        finally:
            if ahead:
                ahead.cancel()

    async def _begin(self) -> None:
        key = self._build.key
        self.checkpoint = await self._connection.fetchval(_SQL["checkpoint"], key)
        self._discarded = {row["position"] for row in await self._connection.fetch(_SQL["discarded"], key)}
        self._hold(await parking.held_up(self._connection, key))

    # --- Reading

    def _reading(self, after: int, size: int) -> "asyncio.Task[Page]":
        task = asyncio.create_task(self._read(after, size))
        # If the batch before it fails, nobody asks what became of this one.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _read(self, after: int, size: int) -> Page:
        """At most `size` events after a position.

        The end of all events is looked at before them. They are dense and in commit order: a page that isn't full
        misses none up to there, whatever types the others are of, and the checkpoint may go there.
        """
        self._woken.clear()
        store = self._manner.store
        head = await store.stream_version(ALL_STREAM)
        if head < after:
            raise AheadOfEvents(f"the checkpoint is {after}, the last event {head}")
        if head == after:
            return Page((), after, full=False)
        events = await store.read_all(after=after, limit=size, types=self._projection.types)
        full = len(events) == size
        last = events[-1].position if events else 0
        return Page(events, last if full else max(head, last), full)

    async def _holding(self, task: "asyncio.Task[T]") -> T:
        """What the task gives. A long look for rare events must not cost the lease, or nobody would ever finish it."""
        try:
            while not (await asyncio.wait([task], timeout=self._manner.look))[0]:
                await self._renew()
            return task.result()
        finally:
            task.cancel()

    # --- Applying

    async def _settle(self, events: Sequence[RecordedEvent], reaching: int) -> None:
        """Apply the events and move the checkpoint. If they can't be applied, find out which, and park that one."""
        try:
            await self._commit(events, reaching)
        except Exception as error:
            if not _may_lie_in_events(error) or not events:
                raise
            if len(events) == 1:
                await self._try_again(events[0], reaching, error)
                return
            half = len(events) // 2
            # What was parked before lies behind the checkpoint.
            await self._settle(events[:half], max(self.checkpoint, events[half - 1].position))
            await self._settle(events[half:], reaching)

    async def _try_again(self, event: RecordedEvent, reaching: int, error: Exception) -> None:
        # What fails as the one before has failed is no bad luck.
        for pause in _PAUSES if describe(error) != self._last_fault else ():
            await asyncio.sleep(pause)
            try:
                await self._commit([event], reaching)
            except Exception as again:
                if not _may_lie_in_events(again):
                    raise
                error = again
            else:
                return
        self._last_fault = describe(error)
        await self._commit([event], reaching, fault=error)

    async def _commit(self, events: Sequence[RecordedEvent], reaching: int, fault: Exception | None = None) -> None:
        """The events, those of them that have to be parked, and the checkpoint behind them, in one transaction.

        With a `fault`, they are not tried but parked for that.
        """
        batch, parked = self._sort(events, fault)
        key, connection = self._build.key, self._connection
        step = (key, self._owner, self._manner.lease, self.checkpoint, self._pace.at(reaching), reaching)
        async with connection.transaction():
            if await connection.fetchrow(_SQL["advance"], *step) is None:
                raise LeaseLost
            if batch:
                await self._projection.apply(connection, batch)
            if self._again:
                # First, for it moves up those that stand behind.
                waiting = {each.event.position for each in parked}
                done = [event.position for event in events if event.position not in waiting]
                await parking.done(connection, key, done)
            if parked:
                await parking.park(connection, key, parked)
        self.checkpoint = reaching
        self._note(parked, fault)

    def _sort(
        self, events: Sequence[RecordedEvent], fault: Exception | None
    ) -> tuple[Sequence[Happened], Sequence[Parking]]:
        """What of the events is to be applied, and what to be parked."""
        batch: list[Happened] = []
        parked: list[Parking] = []
        held = dict(self._held)
        for event in events:
            if event.position in self._discarded:
                continue
            if held and usual_name(event.stream_id) in held:
                parked.append(self._parking(event, "behind"))
                continue
            try:
                happened = self._projection.understand(event)
            except UndecodableEvent as undecodable:
                if self._manner.reported(event):
                    self._leave_out(undecodable)
                    continue
                parked.append(self._parking(event, "failed", undecodable.why))
            else:
                if held and (ahead := self._ahead_of(happened, held)):
                    parked.append(self._parking(event, "behind", ahead))
                elif fault:
                    parked.append(self._parking(event, "failed", describe(fault)))
                else:
                    batch += happened
                    continue
            held[usual_name(event.stream_id)] = event.stream_id
        return batch, parked

    def _ahead_of(self, happened: Sequence[Happened], held: dict[str, str]) -> str | None:
        """The stream that the events have to wait for."""
        return next(
            (held[name] for each in happened for name in self._projection.depends_on(each) if name in held), None
        )

    def _parking(self, event: RecordedEvent, state: parking.State, reason: str = "") -> Parking:
        before = self._again.get(event.position)
        attempts = (before.attempts if before else 0) + (state == "failed")
        return Parking(event, state, reason, attempts)

    def _leave_out(self, undecodable: UndecodableEvent) -> None:
        UNDECODABLE.labels(self._projection.name).inc()
        self._log.error("projection.undecodable", position=undecodable.event.position, reason=str(undecodable))

    def _note(self, parked: Sequence[Parking], fault: Exception | None) -> None:
        if not parked:
            return
        self._hold({*self._held.values(), *(each.event.stream_id for each in parked)})
        for each in parked:
            if each.state == "failed":
                PARKED.labels(self._projection.name).inc()
                # The details of a database's error quote rows; its first line doesn't.
                traceback = None if isinstance(fault, asyncpg.PostgresError) else fault
                self._log.error(
                    "projection.parked",
                    position=each.event.position,
                    stream=each.event.stream_id,
                    type=each.event.type,
                    reason=each.reason,
                    exc_info=traceback,
                )

    # --- Parked events

    def _hold(self, streams: set[str]) -> None:
        self._held = {usual_name(stream): stream for stream in streams}
        HELD_UP.labels(self._projection.name).set(len(streams))

    async def _revisit(self) -> bool:
        """Look at parked events again, if somebody wants that. Says whether there were any."""
        if not self._held or time.monotonic() < self._revisit_at:
            return False
        key, connection = self._build.key, self._connection
        await connection.execute(_SQL["unblock"], key)
        due = await parking.due(connection, key, _REVISITED)
        if due:
            await self._look_at(due)
        self._hold(await parking.held_up(connection, key))
        self._revisit_at = time.monotonic() + (0 if due else self._manner.look)
        return bool(due)

    async def _look_at(self, due: Sequence[Parked]) -> None:
        events = await self._manner.store.find_events([parked.event_id for parked in due])
        self._again = {parked.position: parked for parked in due}
        try:
            # Whose events were removed for good has nothing to wait for.
            gone = self._again.keys() - {event.position for event in events}
            await parking.done(self._connection, self._build.key, list(gone))
            for stream in {usual_name(parked.stream_id) for parked in due}:
                self._held.pop(stream, None)
            await self._settle(events, self.checkpoint)
        finally:
            self._again = {}
        self._log.info("projection.revisited", events=len(due))

    # --- The switch

    async def _switch(self) -> bool:
        """Take the live build's place, no matter who owns that; says whether it came to it."""
        connection = self._connection
        try:
            async with connection.transaction():
                await self._commit((), self.checkpoint)
                live = await builds.hold_live(connection, self._projection)
                # Whoever has read the live build must not read of an earlier time now.
                while self.checkpoint < live:
                    page = await self._read(self.checkpoint, self._manner.batch)
                    if page.reaching == self.checkpoint:
                        # The live build was ahead of the events: an older backup of them was restored.
                        break
                    await self._settle(page.events, page.reaching)
                await builds.put_live(connection, self._projection)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            # Somebody reads for long. What was done here is undone.
            await self._begin()
            return False
        self._log.info("projection.switched", version=self._build.version, position=self.checkpoint)
        return True

    # --- The lease

    async def _renew(self) -> None:
        step = (self._build.key, self._owner, self._manner.lease, self.checkpoint, self._pace.at(self.checkpoint))
        if await self._connection.fetchval(_SQL["renew"], *step) is None:
            raise LeaseLost


def next_batch_size(size: int, *, full: bool, took: float, patience: float, most: int) -> int:
    """How many events to ask for next: more while there are more than were asked for, fewer when there are not.

    A batch that took longer than `patience` seconds is halved, for the lease is renewed between two of them.
    """
    if took > patience or not full:
        return max(size // 2, min(_SMALLEST_BATCH, most))
    return min(size * 2, most)


def usual_name(stream_id: str) -> str:
    """A stream's name; if it is an id, then in the id's usual form: adopted ones may have it in another."""
    try:
        return str(UUID(stream_id))
    except ValueError:
        return stream_id


def _may_lie_in_events(error: Exception) -> bool:
    return is_fault(error) and not isinstance(error, LeaseLost | AheadOfEvents)
