"""Applies events to a build's tables, and parks those that can't be applied.

A batch's rows, its parked events and its checkpoint are one transaction.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence

import asyncpg
import structlog

from eventstore.store import EventStore, RecordedEvent
from projections import parking, telemetry
from projections.faults import describe, is_fault
from projections.held_up import HeldUp
from projections.owned import LeaseLost, Owned
from projections.parking import Parked
from projections.projection import Projection

log = structlog.get_logger(__name__)

# Seconds before an event that can't be applied is tried again.
_PAUSES = (0.05, 0.25)
_REVISITED = 500


class Applying:
    """Of a build that is owned, by who knows which of its streams are held up."""

    def __init__(self, owned: Owned, projection: Projection, held_up: HeldUp) -> None:
        self._owned = owned
        self._projection = projection
        self._held_up = held_up
        self._parked: Mapping[int, Parked] = {}
        """Those of the events that are parked already, and looked at again just now."""
        self._last_fault = ""
        """What the last event was parked for, as long as no page was without a fault."""

    async def apply(self, events: Sequence[RecordedEvent], reaching: int) -> None:
        """Apply the events and move the checkpoint. If they can't be applied, find out which, and park that one."""
        try:
            await self._commit(events, reaching)
        except Exception as error:
            if not _may_lie_in_events(error) or not events:
                raise
            await self._apart(events, reaching, error)
        else:
            if events:
                self._last_fault = ""

    async def apply_again(self, store: EventStore) -> bool:
        """Look at parked events again, if somebody wants that. Says whether there were any."""
        due = await self._held_up.due(_REVISITED)
        if not due:
            return False
        events = await store.find_events([parked.event_id for parked in due])
        self._parked = {parked.position: parked for parked in due}
        try:
            # Whose events were removed for good has nothing to wait for.
            gone = self._parked.keys() - {event.position for event in events}
            await parking.done(self._owned.connection, self._owned.build.key, list(gone))
            await self.apply(events, self._owned.checkpoint)
        finally:
            self._parked = {}
        await self._held_up.learn_streams()
        log.info("projection.revisited", projection=self._owned.build.key, events=len(due))
        return True

    async def _apart(self, events: Sequence[RecordedEvent], reaching: int, error: Exception) -> None:
        """One of the events can't be applied: find it by halves."""
        if len(events) == 1:
            await self._try_again(events[0], reaching, error)
            return
        half = len(events) // 2
        # What was parked before lies behind the checkpoint.
        parts = (events[:half], max(self._owned.checkpoint, events[half - 1].position)), (events[half:], reaching)
        for part, end in parts:
            try:
                await self._commit(part, end)
            except Exception as fault:
                if not _may_lie_in_events(fault):
                    raise
                await self._apart(part, end, fault)

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
        began = time.time_ns()
        batch, parked = self._held_up.sort(events, fault, self._parked)
        connection, key = self._owned.connection, self._owned.build.key
        async with self._owned.step(reaching):
            if batch:
                await self._projection.apply(connection, batch)
            if self._parked:
                # First, for it moves up those that stand behind.
                waiting = {each.event.position for each in parked}
                done = [event.position for event in events if event.position not in waiting]
                await parking.done(connection, key, done)
            if parked:
                await parking.park(connection, key, parked)
        telemetry.taken_in(self._owned.build, events, {each.event.position for each in parked}, began)
        if parked:
            # The details of a database's error quote rows; its first line doesn't.
            self._held_up.hold(parked, None if isinstance(fault, asyncpg.PostgresError) else fault)


def _may_lie_in_events(error: Exception) -> bool:
    return is_fault(error) and not isinstance(error, LeaseLost)
