"""Runs the projections: each build has one owner among all workers and follows the events from its checkpoint.

Ownership is a lease by the read store's clock, held with every batch (following.py). Every worker runs the build of its
own version of each projection, and builds it beside the live one where there is none yet (builds.py).
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

import asyncpg
import structlog

from eventstore.appender import UNAVAILABLE
from eventstore.listener import listening, pause_after
from eventstore.pool import STATEMENT_TIMEOUT, open_connection
from eventstore.statements import load_statements
from eventstore.store import ALL_STREAM, EventStore, RecordedEvent
from projections import builds
from projections.builds import Build
from projections.faults import describe, is_outage, raise_if_cancelled
from projections.following import Following, Manner
from projections.owned import LeaseLost
from projections.projection import Projection

if TYPE_CHECKING:
    from projections.projection import Connection

log = structlog.get_logger(__name__)

EVENTS_CHANNEL = "public.events"
"""Of the event store: a notification for each append."""
PROJECTIONS_CHANNEL = "waybill_projections"
"""Of the read store: `projection,version,position` for each step of a build that can be read. The name stands in
runner.sql and builds.sql, too."""

_SQL = load_statements("projections", "runner.sql")


def _nothing_reported(_event: RecordedEvent) -> bool:
    return False


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
    reported: Callable[[RecordedEvent], bool] = _nothing_reported,
) -> None:
    """Run the projections until cancelled, side by side with any number of workers that do the same.

    Whatever fails is tried again, for ever; an event that can't be applied is parked. `lease` and `poll` are seconds,
    `batch` is the most events of one transaction, `owner` says to people who this is, `reported` whether an event was
    known to be unreadable when its database was adopted: such are left out. Cancelled, it gives up what it owns, so
    that others go on at once.
    """
    manner = Manner(
        store=store,
        read_store_url=read_store_url,
        lease=timedelta(seconds=lease),
        # The lease is renewed at every look, so it must outlast two of them.
        look=min(poll, lease / 3),
        batch=batch,
        reported=reported,
    )
    runners = [Runner(projection, manner, owner) for projection in projections]

    def wake(payload: str | None) -> None:
        if payload is None or payload.startswith(f"{ALL_STREAM},"):
            for runner in runners:
                runner.woken.set()

    async with listening(event_store_url, EVENTS_CHANNEL, wake), asyncio.TaskGroup() as tasks:
        for runner in runners:
            tasks.create_task(runner.run(), name=f"projection {runner.projection.name}")
        tasks.create_task(_build(projections, manner, owner), name="builds")


async def _build(projections: Sequence[Projection], manner: Manner, owner: str) -> NoReturn:
    """See to it that each projection has a build of our version, and build what nobody else is at."""
    at_work: dict[str, asyncio.Task[None]] = {}

    async def look(connection: "Connection") -> None:
        for projection in projections:
            task = at_work.get(projection.name)
            build = await builds.attend(connection, projection)
            if build and not build.owned and (task is None or task.done()):
                at_work[projection.name] = tasks.create_task(Runner(projection, manner, owner).build())

    async with asyncio.TaskGroup() as tasks:
        failures = 0
        while True:
            try:
                async with _connected(manner) as connection:
                    while True:
                        await look(connection)
                        failures = 0
                        await asyncio.sleep(manner.look)
            except Exception as error:  # noqa: BLE001 - whatever happens to it, it is tried again
                raise_if_cancelled(error)
                failures += 1
                if failures == 1 or not is_outage(error):
                    log.warning("builds.unattended", reason=describe(error))
            await asyncio.sleep(pause_after(failures))


def _connected(manner: Manner) -> "AbstractAsyncContextManager[Connection]":
    milliseconds = round(manner.lease.total_seconds() * 1000)
    return open_connection(
        manner.read_store_url,
        # Who is stopped in the middle of a transaction holds locks: it loses them with its lease.
        idle_in_transaction_session_timeout=str(milliseconds),
        # A plan made while a table was small must not scan it when it has grown.
        enable_seqscan="off",
        # Rows and checkpoint are lost together, if a crash loses them, and then made again from the events.
        synchronous_commit="off",
    )


class Runner:
    """One projection in one process: waits until it may own a build of it, then lets that follow the events."""

    def __init__(self, projection: Projection, manner: Manner, owner: str) -> None:
        self.projection = projection
        self.woken = asyncio.Event()
        """Set by a hint that there are events."""
        self._manner = manner
        # Two that call themselves the same must not pass for one.
        self.owner = f"{owner}/{uuid4().hex[:8]}"
        self._following: Following | None = None
        self._failures = 0
        self._log = log.bind(projection=projection.name)

    async def run(self) -> NoReturn:
        """Follow the events with the build that has the rows of our version, for ever."""
        while True:
            await self._trying(self._serve)
            await asyncio.sleep(pause_after(self._failures))

    async def build(self) -> None:
        """Work on the next build while it is ours: until it is the live one, or something fails."""
        await self._trying(self._build)

    async def _serve(self, connection: "Connection") -> NoReturn:
        while True:
            build = await builds.serving(connection, self.projection)
            if build is None:
                await asyncio.sleep(self._manner.look)
            elif await self._acquired(connection, build):
                await self._own(connection, build)

    async def _build(self, connection: "Connection") -> None:
        build = await builds.attend(connection, self.projection)
        if build and await self._acquired(connection, build):
            await self._own(connection, build)

    async def _trying(self, work: "Callable[[Connection], Awaitable[None]]") -> None:
        try:
            async with _connected(self._manner) as connection:
                await work(connection)
        except Exception as error:  # noqa: BLE001 - a projection outlives whatever happens to it
            raise_if_cancelled(error)
            self._failed(error)

    async def _acquired(self, connection: "Connection", build: Build) -> bool:
        """Whether the build is ours now; if it is another's, that is found out after a while."""
        row = await connection.fetchrow(_SQL["acquire"], build.key, build.version, self.owner, self._manner.lease)
        if row and row["acquired"]:
            self._log.info("projection.acquired", build=build.key, owner=self.owner)
            return True
        left = row["lease_left"].total_seconds() if row and row["lease_left"] else 0.0
        if left < -self._manner.look:
            await self._displace(connection, build)
        await asyncio.sleep(min(max(left, 0.0), self._manner.look) + random.uniform(0.005, 0.05))  # noqa: S311 - jitter
        return False

    async def _displace(self, connection: "Connection", build: Build) -> None:
        """The lease ran out, but the row is locked: its owner works on a batch for long, or was stopped in it."""
        overdue, longest = timedelta(seconds=self._manner.look), timedelta(seconds=STATEMENT_TIMEOUT)
        if await connection.fetchval(_SQL["displace"], build.key, overdue, longest):
            self._log.warning("projection.displaced", build=build.key)

    async def _own(self, connection: "Connection", build: Build) -> None:
        following = Following(
            connection, self.projection, build, owner=self.owner, manner=self._manner, woken=self.woken
        )
        following.progress = self._succeeded
        self._following = following
        try:
            await connection.execute(_SQL["look_in"], build.schema)
            await following.follow()
        except LeaseLost:
            self._log.warning("projection.lost", build=build.key, owner=self.owner)
        finally:
            # If that fails, the lease runs out.
            with suppress(*UNAVAILABLE):
                await connection.execute(_SQL["release"], self.projection.name, self.owner, timeout=2)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if not is_outage(error):
            # The details of a database's error quote rows; its first line doesn't.
            traceback = None if isinstance(error, asyncpg.PostgresError) else error
            after = self._following.checkpoint if self._following else None
            self._log.error("projection.failed", after=after, reason=describe(error), exc_info=traceback)
        elif self._failures == 1:
            self._log.warning("projection.interrupted", reason=type(error).__name__)

    def _succeeded(self) -> None:
        if self._failures:
            self._log.info("projection.resumed", failures=self._failures)
        self._failures = 0
