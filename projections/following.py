"""Follows the events with one build, as long as it is ours: batch by batch, and for a next build up to the switch."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import structlog

from eventstore.listener import wait_for_hint
from eventstore.store import ALL_STREAM, SPAN, EventStore, RecordedEvent
from projections import builds
from projections.applying import Applying
from projections.builds import Build
from projections.held_up import HeldUp
from projections.owned import Owned
from projections.projection import Projection

if TYPE_CHECKING:
    from projections.projection import Connection

T = TypeVar("T")

log = structlog.get_logger(__name__)

_SMALLEST_BATCH = 100


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
        self._projection = projection
        self._build = build
        self._manner = manner
        self._woken = woken
        self._owned = Owned(connection, build, owner, manner.lease)
        self._held_up = HeldUp(connection, projection, build.key, manner.reported)
        self._applying = Applying(self._owned, projection, self._held_up)
        self._look_again_at = 0.0
        self.progress: Callable[[], None] = lambda: None
        """Called after each step that went well."""

    @property
    def checkpoint(self) -> int:
        return self._owned.checkpoint

    async def follow(self) -> None:
        """Apply what comes after the checkpoint, batch by batch; wait where there is nothing.

        For ever; a next build's until it is the live one. Raises LeaseLost.
        """
        await self._learn()
        size = min(_SMALLEST_BATCH, self._manner.batch)
        ahead: asyncio.Task[Page] | None = None
        try:
            while True:
                page = await self._holding(ahead or self._reading(self.checkpoint, size))
                # The event store looks for the next page while the read store takes this one.
                ahead = self._reading(page.reaching, size) if page.full else None
                began = time.monotonic()
                if page.reaching > self.checkpoint:
                    await self._applying.apply(page.events, page.reaching)
                else:
                    await self._owned.renew()
                took = time.monotonic() - began
                size = next_batch_size(
                    size, full=page.full, took=took, patience=self._manner.look, most=self._manner.batch
                )
                looked_again = await self._look_again()
                self.progress()
                if page.full or looked_again:
                    continue
                if self._build.stage == "next" and await self._switch():
                    return
                # What has come since the page was begun has woken us already.
                await wait_for_hint(self._woken, self._manner.look)
        finally:
            self._held_up.forget()
            if ahead:
                ahead.cancel()

    async def _learn(self) -> None:
        await self._owned.learn()
        await self._held_up.learn()

    async def _look_again(self) -> bool:
        """At what is parked, now and then."""
        if time.monotonic() < self._look_again_at:
            return False
        if await self._applying.apply_again(self._manner.store):
            return True
        self._look_again_at = time.monotonic() + self._manner.look
        return False

    # --- Reading

    def _reading(self, after: int, size: int) -> "asyncio.Task[Page]":
        task = asyncio.create_task(self._read(after, size))
        # If the batch before it fails, nobody asks what became of this one.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _read(self, after: int, size: int) -> Page:
        """At most `size` events after a position, out of so many positions that a look takes no time to speak of.

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
        wanted, until = self._projection, min(after + SPAN, head)
        events = await store.read_all(
            after=after, until=until, limit=size, types=wanted.types, strangers=wanted.strangers
        )
        if len(events) == size:
            return Page(events, events[-1].position, full=True)
        return Page(events, until, full=until < head)

    async def _holding(self, task: "asyncio.Task[T]") -> T:
        """What the task gives. A long look for rare events must not cost the lease, or nobody would ever finish it."""
        try:
            while not (await asyncio.wait([task], timeout=self._manner.look))[0]:
                await self._owned.renew()
            return task.result()
        finally:
            task.cancel()

    # --- The switch

    async def _switch(self) -> bool:
        """Take the live build's place, no matter who owns that; says whether it came to it."""
        connection = self._owned.connection
        try:
            async with connection.transaction():
                await self._applying.apply((), self.checkpoint)
                live = await builds.hold_live(connection, self._projection)
                # Whoever has read the live build must not read of an earlier time now.
                while self.checkpoint < live:
                    page = await self._read(self.checkpoint, self._manner.batch)
                    if page.reaching == self.checkpoint:
                        # The live build was ahead of the events: an older backup of them was restored.
                        break
                    await self._applying.apply(page.events, page.reaching)
                await builds.put_live(connection, self._projection)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            # Somebody reads for long. What was done here is undone.
            await self._learn()
            return False
        log.info(
            "projection.switched", projection=self._build.key, version=self._build.version, position=self.checkpoint
        )
        return True


def next_batch_size(size: int, *, full: bool, took: float, patience: float, most: int) -> int:
    """How many events to ask for next: more while there are more than were asked for, fewer when there are not.

    A batch that took longer than `patience` seconds is halved, for the lease is renewed between two of them.
    """
    if took > patience or not full:
        return max(size // 2, min(_SMALLEST_BATCH, most))
    return min(size * 2, most)
