"""Runs event handlers: each has one owner among all workers, and sees to the events from its checkpoint on, for ever.

At least once, and a stream's events in their order. The checkpoint never waits for an event: what can't be seen to is
parked, with the later events of its stream behind it, before the checkpoint moves on. Both by the session that owns the
subscription: an owner that was stopped, and comes back after another has taken over, writes nothing.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import NoReturn

import asyncpg
import structlog
from prometheus_client import Counter

from eventstore.listener import pause_after
from eventstore.postgres import PostgresStore
from eventstore.store import RecordedEvent, Subscription, SubscriptionLost
from eventstore.subscriptions import SessionSubscription
from projections import parking
from projections.faults import describe, is_fault, is_outage, raise_if_cancelled
from projections.handlers.handler import Handler
from projections.parking import Parking, Place
from projections.telemetry import seen_to

log = structlog.get_logger(__name__)

FAILED = Counter(
    "waybill_handler_failed_events", "Events that a handler has parked for somebody to see to.", ["handler"]
)

POLL = 0.5
"""Seconds between two looks at what is parked."""

# How long events are waited for that may be seen to with the first that is due, in seconds.
_GATHERING = 0.5
# How often a batch is tried as a whole, before it is tried in parts.
_ATTEMPTS = 5
# Between two looks at an event that it is too early for, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 300.0


async def run(handlers: Sequence[Handler], store: PostgresStore) -> None:
    """Run the handlers until cancelled, side by side with any number of workers that do the same.

    Whatever fails is tried again, for ever.
    """
    async with asyncio.TaskGroup() as tasks:
        for handler in handlers:
            tasks.create_task(Driver(handler, store).run(), name=f"handler {handler.name}")


class Driver:
    """One handler in one worker: waits until it owns the subscription, then sees to its events."""

    def __init__(self, handler: Handler, store: PostgresStore) -> None:
        self._handler = handler
        self._name = handler.name
        self._store = store
        self._unripe: list[tuple[float, RecordedEvent]] = []
        """Events that were delivered and are left alone for a while yet: each with the time when it is due."""
        self._discards: int | None = None
        """How many events were given up when those behind them were last let go; None: let them."""
        self._failures = 0
        self._log = log.bind(handler=handler.name)

    async def run(self) -> NoReturn:
        while True:
            try:
                async with self._store.subscribe(self._name, batch=self._handler.batch) as subscription:
                    await self._own(subscription)
            except Exception as error:  # noqa: BLE001 - a handler outlives whatever happens to it
                raise_if_cancelled(error)
                self._failed(error)
            await asyncio.sleep(pause_after(self._failures))

    async def _own(self, subscription: SessionSubscription) -> NoReturn:
        coming: asyncio.Task[list[RecordedEvent]] | None = None
        self._unripe, self._discards = [], None
        try:
            while True:
                coming = coming or asyncio.create_task(self._next(subscription))
                await asyncio.wait([coming], timeout=POLL)
                if coming.done():
                    batch, coming = coming.result(), None
                    await self._take(batch, subscription.session)
                    await subscription.ack(batch[-1])
                await self._look_again(subscription.session)
                self._succeeded()
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.gather(coming, return_exceptions=True)

    async def _next(self, subscription: Subscription) -> list[RecordedEvent]:
        """The events that are due, once the first of them has been for a moment: for that, others come along."""
        ripe_after = self._handler.ripe_after
        if not self._unripe:
            batch = await anext(subscription)
            # The database's clock may be another one.
            latest = time.time() + ripe_after
            self._unripe = [(min(event.created_at.timestamp() + ripe_after, latest), event) for event in batch]
        first_due = self._unripe[0][0]
        await asyncio.sleep(first_due + min(ripe_after, _GATHERING) - time.time())
        now = time.time()
        due = [event for _, event in takewhile(lambda each: each[0] <= now, self._unripe)] or [self._unripe[0][1]]
        self._unripe = self._unripe[len(due) :]
        return due

    async def _take(self, batch: Sequence[RecordedEvent], place: Place) -> None:
        """See to what is new."""
        events = [event for event in batch if self._handler.wants(event)]
        if not events:
            return
        held_up = await parking.held_up(place, self._name, {event.stream_id for event in events})
        behind = [Parking(event, "behind") for event in events if event.stream_id in held_up]
        left = await self._settle([event for event in events if event.stream_id not in held_up], {})
        await parking.park(place, self._name, [*behind, *left])

    async def _look_again(self, place: Place) -> None:
        """See to what is parked and due."""
        discards = await parking.discards(place, self._name)
        if discards != self._discards:
            # Something may just have been parked behind what was given up.
            await parking.unblock(place, self._name)
            self._discards = discards
        due = await parking.due(place, self._name, self._handler.batch)
        if not due:
            return
        events = await self._store.find_events([parked.event_id for parked in due])
        left = await self._settle(events, {parked.position: parked.attempts for parked in due})
        still = {parking.event.position for parking in left}
        # What isn't there any more, because it was purged, is done with.
        await parking.done(place, self._name, [each.position for each in due if each.position not in still])
        await parking.park(place, self._name, left)

    async def _settle(self, events: Sequence[RecordedEvent], looks: Mapping[int, int]) -> list[Parking]:
        began = time.time_ns()
        left = await self._persist(events, looks)
        seen_to(self._name, events, {parking.event.position: parking.state for parking in left}, began)
        return left

    async def _persist(self, events: Sequence[RecordedEvent], looks: Mapping[int, int]) -> list[Parking]:
        """See to the events, and give those that are to be parked. `looks`: how often each was looked at before."""
        if not events:
            return []
        for failures in range(_ATTEMPTS - 1):
            try:
                return await self._see_to(events, looks)
            except Exception as error:
                if not is_fault(error):
                    raise
                first, last = events[0].position, events[-1].position
                self._log.info("handler.again", first=first, last=last, reason=describe(error))
                await asyncio.sleep(pause_after(failures))
        return await self._apart(events, looks)

    async def _apart(self, events: Sequence[RecordedEvent], looks: Mapping[int, int]) -> list[Parking]:
        """Try fewer and fewer at a time, so that those that fail keep no others from being done, and in order."""
        try:
            return await self._see_to(events, looks)
        except Exception as error:
            if not is_fault(error):
                raise
            if len(events) == 1:
                return [self._given_up(events[0], describe(error), looks.get(events[0].position, 0) + _ATTEMPTS, error)]
        middle = len(events) // 2
        left = await self._apart(events[:middle], looks)
        held_up = {parking.event.stream_id for parking in left}
        left += [Parking(event, "behind") for event in events[middle:] if event.stream_id in held_up]
        free = [event for event in events[middle:] if event.stream_id not in held_up]
        return left + (await self._apart(free, looks) if free else [])

    async def _see_to(self, events: Sequence[RecordedEvent], looks: Mapping[int, int]) -> list[Parking]:
        not_done = await self._handler.handle(events)
        left: dict[str, list[Parking]] = {}
        for event in events:
            if event.stream_id in left:
                left[event.stream_id].append(Parking(event, "behind"))
            elif why := not_done.get(event.position):
                look = looks.get(event.position, 0) + 1
                if why.later:
                    pause = min(_FIRST_PAUSE * 2 ** min(look - 1, 16), _LONGEST_PAUSE)
                    left[event.stream_id] = [Parking(event, "waiting", why.reason, look, pause)]
                else:
                    left[event.stream_id] = [self._given_up(event, why.reason, look)]
        return [each for its in left.values() for each in its]

    def _given_up(self, event: RecordedEvent, reason: str, attempts: int, error: Exception | None = None) -> Parking:
        FAILED.labels(self._name).inc()
        # The details of a database's error quote rows; its first line doesn't.
        trace = None if isinstance(error, asyncpg.PostgresError) else error
        self._log.error("handler.parked", position=event.position, type=event.type, reason=reason, exc_info=trace)
        return Parking(event, "failed", reason, attempts)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if isinstance(error, SubscriptionLost) or is_outage(error):
            if self._failures == 1:
                self._log.warning("handler.interrupted", reason=describe(error))
        else:
            self._log.error("handler.failed", reason=describe(error), exc_info=error)

    def _succeeded(self) -> None:
        if self._failures:
            self._log.info("handler.resumed", failures=self._failures)
        self._failures = 0
