"""Runs the projections: each has one owner among all workers and follows the events from its checkpoint, for ever.

Ownership is a lease by the read store's clock, held with every batch. A batch's rows and its checkpoint are one
transaction that begins by asking whether the projection is still ours: an owner that was paused, and comes back
after another has taken over, writes nothing.
"""

import asyncio
import random
import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from uuid import uuid4

import asyncpg
import structlog
from prometheus_client import Counter

from eventstore.appender import UNAVAILABLE
from eventstore.codec import UndecodableEvent
from eventstore.listener import listening, pause_after
from eventstore.pool import open_connection
from eventstore.statements import load_statements
from eventstore.store import ALL_STREAM, EventStore, RecordedEvent
from projections.projection import Happened, Projection

if TYPE_CHECKING:
    from projections.projection import Connection

T = TypeVar("T")

log = structlog.get_logger(__name__)

EVENTS_CHANNEL = "public.events"
"""Of the event store: a notification for each append."""
PROJECTIONS_CHANNEL = "waybill_projections"
"""Of the read store: `name,position` for each step of a projection. The name stands in runner.sql, too."""

UNDECODABLE = Counter(
    "waybill_projection_undecodable_events",
    "Events that a projection had to leave out, because their data isn't what their type says.",
    ["projection"],
)

_SQL = load_statements("projections", "runner.sql")
_SMALLEST_BATCH = 100


class LeaseLost(Exception):
    """Another worker has taken the projection over, or its checkpoint was moved by hand."""


class AheadOfEvents(Exception):
    """The checkpoint is beyond the last event: the rows were made from the events of another event store, or of this
    one before an older backup was restored. They have to be projected again from the beginning.
    """


async def run(
    projections: Sequence[Projection],
    *,
    store: EventStore,
    event_store_url: str,
    read_store_url: str,
    lease: float,
    poll: float,
    batch: int,
    owner: str,
) -> None:
    """Run the projections until cancelled, side by side with any number of workers that do the same.

    Whatever fails is tried again, for ever. `lease` and `poll` are seconds, `batch` is the most events of one
    transaction, `owner` says to people who this is. Cancelled, it gives up what it owns, so that others go on at once.
    """
    runners = [
        Runner(projection, store, read_store_url, lease=lease, poll=poll, batch=batch, owner=owner)
        for projection in projections
    ]

    def wake(payload: str | None) -> None:
        if payload is None or payload.startswith(f"{ALL_STREAM},"):
            for runner in runners:
                runner.woken.set()

    async with listening(event_store_url, EVENTS_CHANNEL, wake), asyncio.TaskGroup() as tasks:
        for runner in runners:
            tasks.create_task(runner.run(), name=f"projection {runner.projection.name}")


class Runner:
    """One projection in one worker: waits until it may own it, then lets it follow the events."""

    def __init__(
        self,
        projection: Projection,
        store: EventStore,
        read_store_url: str,
        *,
        lease: float,
        poll: float,
        batch: int,
        owner: str,
    ) -> None:
        self.projection = projection
        self.woken = asyncio.Event()
        """Set by a hint that there are events."""
        self._name = projection.name
        self._store = store
        self._read_store_url = read_store_url
        self._lease = timedelta(seconds=lease)
        self._look = min(poll, lease / 3)
        self._most = batch
        # Two that call themselves the same must not pass for one.
        self._owner = f"{owner}/{uuid4().hex[:8]}"
        self._failures = 0
        self._checkpoint = 0
        self._reaching = 0
        self._log = log.bind(projection=self._name)

    async def run(self) -> NoReturn:
        while True:
            try:
                async with self._connection() as connection:
                    while True:
                        await self._acquire(connection)
                        await self._own(connection)
            except Exception as error:  # noqa: BLE001 - a projection outlives whatever happens to it
                self._failed(error)
            await asyncio.sleep(pause_after(self._failures))

    def _connection(self) -> "AbstractAsyncContextManager[Connection]":
        milliseconds = round(self._lease.total_seconds() * 1000)
        return open_connection(
            self._read_store_url,
            # An owner that is paused in the middle of a batch holds locks: it loses them with its lease.
            idle_in_transaction_session_timeout=str(milliseconds),
            # A plan made while a table was small must not scan it when it has grown.
            enable_seqscan="off",
            # Rows and checkpoint are lost together, if a crash loses them, and then made again from the events.
            synchronous_commit="off",
        )

    async def _acquire(self, connection: "Connection") -> None:
        """Wait until the projection is ours."""
        while True:
            row = await connection.fetchrow(_SQL["acquire"], self._name, self._owner, self._lease)
            if row is None:
                await connection.execute(_SQL["register"], self._name, self.projection.version)
                continue
            if row["acquired"]:
                self._log.info("projection.acquired", owner=self._owner)
                return
            left = row["lease_left"].total_seconds() if row["lease_left"] else 0.0
            await asyncio.sleep(min(max(left, 0.0), self._look) + random.uniform(0.005, 0.05))  # noqa: S311 - jitter

    async def _own(self, connection: "Connection") -> None:
        try:
            await self._follow(connection)
        except LeaseLost:
            self._log.warning("projection.lost", owner=self._owner)
        finally:
            # If that fails, the lease runs out.
            with suppress(*UNAVAILABLE):
                await connection.execute(_SQL["release"], self._name, self._owner, timeout=2)

    async def _follow(self, connection: "Connection") -> NoReturn:
        """Apply what comes after the checkpoint, batch by batch; wait where there is nothing."""
        self._checkpoint = await connection.fetchval(_SQL["checkpoint"], self._name)
        size = min(_SMALLEST_BATCH, self._most)
        while True:
            self.woken.clear()
            # Before the events themselves, see _step.
            head = self._reaching = await self._holding(connection, self._store.stream_version(ALL_STREAM))
            if head < self._checkpoint:
                raise AheadOfEvents(f"the checkpoint is {self._checkpoint}, the last event {head}")
            if head > self._checkpoint:
                size = await self._step(connection, head, size)
            else:
                await self._renew(connection)
            self._succeeded()
            # What has come since the head was looked at has woken us already.
            if self._checkpoint >= head:
                await self._wait()

    async def _step(self, connection: "Connection", head: int, size: int) -> int:
        """Read and apply at most `size` events; gives the next step's size.

        `head` is the end of all events as it was before. They are dense and in commit order: a page that isn't full
        misses none up to the head, whatever types the others are of, and the checkpoint may go there.
        """
        events = self._store.read_all(after=self._checkpoint, limit=size, types=self.projection.types)
        page = await self._holding(connection, events)
        full = len(page) == size
        last = page[-1].position if page else 0
        self._reaching = last if full else max(head, last)
        batch = self._understand(page)
        began = time.monotonic()
        await self._apply(connection, batch)
        took = time.monotonic() - began
        return next_batch_size(size, full=full, took=took, patience=self._look, most=self._most)

    async def _apply(self, connection: "Connection", batch: Sequence[Happened]) -> None:
        """The batch and the checkpoint behind it in one transaction."""
        step = (self._name, self._owner, self._lease, self._checkpoint, self._reaching)
        async with connection.transaction():
            if await connection.fetchrow(_SQL["advance"], *step) is None:
                raise LeaseLost
            if batch:
                await self.projection.apply(connection, batch)
        self._checkpoint = self._reaching

    def _understand(self, page: Sequence[RecordedEvent]) -> list[Happened]:
        batch: list[Happened] = []
        for recorded in page:
            try:
                batch += self.projection.understand(recorded)
            except UndecodableEvent as error:
                self._on_undecodable(error)
        return batch

    def _on_undecodable(self, error: UndecodableEvent) -> None:
        """What is to become of an event that can't be read: it is left out, and said so."""
        UNDECODABLE.labels(self._name).inc()
        self._log.error("projection.undecodable", position=error.event.position, reason=str(error))

    async def _holding(self, connection: "Connection", reading: Coroutine[Any, Any, T]) -> T:
        """What `reading` gives. A long look for rare events must not cost the lease, or nobody would ever finish it."""
        task = asyncio.create_task(reading)
        try:
            while not (await asyncio.wait([task], timeout=self._look))[0]:
                await self._renew(connection)
            return task.result()
        finally:
            task.cancel()

    async def _renew(self, connection: "Connection") -> None:
        if await connection.fetchval(_SQL["renew"], self._name, self._owner, self._lease, self._checkpoint) is None:
            raise LeaseLost

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self.woken.wait(), self._look)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if not _is_outage(error):
            # The details of a database's error quote rows; its first line doesn't.
            traceback = None if isinstance(error, asyncpg.PostgresError) else error
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            first, last = self._checkpoint + 1, self._reaching
            self._log.error("projection.failed", first=first, last=last, reason=reason, exc_info=traceback)
        elif self._failures == 1:
            self._log.warning("projection.interrupted", reason=type(error).__name__)

    def _succeeded(self) -> None:
        if self._failures:
            self._log.info("projection.resumed", failures=self._failures)
        self._failures = 0


def next_batch_size(size: int, *, full: bool, took: float, patience: float, most: int) -> int:
    """How many events to ask for next: more while there are more than were asked for, fewer when there are not.

    A batch that took longer than `patience` seconds is halved, for the lease is renewed between two of them.
    """
    if took > patience or not full:
        return max(size // 2, min(_SMALLEST_BATCH, most))
    return min(size * 2, most)


def _is_outage(error: Exception) -> bool:
    # asyncpg's complaints about wrong arguments are interface errors, too.
    return isinstance(error, (*UNAVAILABLE, asyncpg.IdleInTransactionSessionTimeoutError)) and not isinstance(
        error, ValueError
    )
