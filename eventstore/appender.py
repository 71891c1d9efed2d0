"""Group commit: what queues while one batch commits goes into the next, in one call, one transaction, one fsync.

Under load the cost of a commit is shared by all who wait; alone, an append is sent at once. Event ids make a
batch safe to send again, so a connection that dies in the middle leads to a repetition, never to a false answer.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg
import structlog

from eventstore.store import (
    ALL_STREAM,
    Append,
    Appended,
    ClaimLost,
    DuplicateEvent,
    ExpectedVersion,
    ReservedStream,
    StreamDeleted,
    WrongExpectedVersion,
)

log = structlog.get_logger(__name__)

_EXPECTED = {"any": -1, "no_stream": -2, "stream_exists": -3}

RACES = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
)
"""Another transaction came in between: nothing was written, the next attempt sees what it did."""

UNAVAILABLE = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    TimeoutError,
)
"""What asyncpg raises while the server is away, restarting or being killed."""


@dataclass(slots=True)
class _Waiting:
    append: Append
    answer: "asyncio.Future[Appended]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Appender:
    """The one way in which a process writes events. `pool` gives it one connection at a time."""

    MAX_APPENDS = 512
    """Appends in a batch: more would make the first of them wait without sharing the commit any further."""
    MAX_BYTES = 8 * 1024 * 1024
    """Payload in a batch. A single larger append goes alone."""
    MAX_WAITING = 10_000
    """Appends that may wait; whoever comes next waits before it queues (back-pressure)."""
    ATTEMPTS = 8

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", statement: str) -> None:
        self._pool = pool
        self._statement = statement
        self._queue: deque[_Waiting] = deque()
        self._room = asyncio.Semaphore(self.MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self.batches = 0
        self.appends = 0

    async def append(self, append: Append) -> Appended:
        """Append, and answer when it is on disk.

        Whoever is cancelled while waiting leaves no half-done append: either it wasn't sent, or it will be whole.
        """
        _check(append)
        async with self._room:
            waiting = _Waiting(append)
            self._queue.append(waiting)
            if self._task is None:
                self._task = asyncio.create_task(self._drain(), name="appender")
            return await waiting.answer

    async def close(self) -> None:
        """Wait until everything that was queued has its answer."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while batch := self._next_batch():
                await self._commit(batch)
                # Those who just got their answer may have more: let them queue for the next batch.
                await asyncio.sleep(0)
        finally:
            self._task = None
            if self._queue and not asyncio.current_task().cancelling():  # pyright: ignore[reportOptionalMemberAccess] - runs in a task
                self._task = asyncio.create_task(self._drain(), name="appender")

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        ids: set[UUID] = set()
        size = 0
        while self._queue and len(batch) < self.MAX_APPENDS:
            waiting = self._queue[0]
            if waiting.answer.done():  # cancelled before it was sent
                self._queue.popleft()
                continue
            size += sum(len(event.data) + len(event.metadata) for event in waiting.append.events)
            its_ids = {event.event_id for event in waiting.append.events}
            # A repetition waits for its original's batch: then it finds the events and gets the same answer.
            if batch and (size > self.MAX_BYTES or not ids.isdisjoint(its_ids)):
                break
            ids |= its_ids
            batch.append(self._queue.popleft())
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        try:
            outcomes = await self._send([waiting.append for waiting in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, every waiting caller has to hear of it
            if len(batch) > 1 and not isinstance(error, (*RACES, *UNAVAILABLE)):
                # One of them is to blame, the others are not: each on its own.
                for waiting in batch:
                    await self._commit([waiting])
                return
            outcomes = [error] * len(batch)
        self.batches += 1
        self.appends += len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, Appended):
                waiting.answer.set_result(outcome)
            else:
                waiting.answer.set_exception(outcome)

    async def _send(self, appends: Sequence[Append]) -> Sequence[Appended | Exception]:
        arguments = _arguments(appends)
        for attempt in range(1, self.ATTEMPTS + 1):
            try:
                rows = await self._pool.fetch(self._statement, *arguments)
            except (*RACES, *UNAVAILABLE) as error:
                if attempt == self.ATTEMPTS:
                    raise
                log.info("append.again", attempt=attempt, reason=type(error).__name__, appends=len(appends))
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, no secret
            else:
                return [
                    _outcome(append, row["outcome"], row["first_version"], row["first_position"], row["created_at"])
                    for append, row in zip(appends, rows, strict=True)
                ]
        raise AssertionError  # the last attempt returns or raises


def _check(append: Append) -> None:
    if append.stream_id == ALL_STREAM:
        raise ReservedStream(f"{ALL_STREAM} is the global sequence: append to a stream of its own")
    if not append.events:
        raise ValueError("an append needs at least one event")
    if len({event.event_id for event in append.events}) < len(append.events):
        raise DuplicateEvent(f"two events of one append to {append.stream_id} have the same id")


def _arguments(appends: Sequence[Append]) -> tuple[list[object], ...]:
    """The batch as the columns that waybill.append takes; appends and streams are numbered from 1."""
    streams = sorted({append.stream_id for append in appends})
    number = {stream_id: i for i, stream_id in enumerate(streams, 1)}
    events = [(a, event) for a, append in enumerate(appends, 1) for event in append.events]
    claims = [
        (a, claim, confirm)
        for a, append in enumerate(appends, 1)
        for which, confirm in ((append.confirm, True), (append.release, False))
        for claim in which
    ]
    return (
        [*streams],
        [number[append.stream_id] for append in appends],
        [_expected(append.expected) for append in appends],
        [len(append.events) for append in appends],
        [a for a, _ in events],
        [event.event_id for _, event in events],
        [event.type for _, event in events],
        [event.causation_id for _, event in events],
        [event.correlation_id for _, event in events],
        [event.data for _, event in events],
        [event.metadata for _, event in events],
        [a for a, _, _ in claims],
        [claim.kind for _, claim, _ in claims],
        [claim.key for _, claim, _ in claims],
        [claim.owner for _, claim, _ in claims],
        [confirm for _, _, confirm in claims],
    )


def _expected(version: ExpectedVersion) -> int:
    if isinstance(version, str):
        return _EXPECTED[version]
    if version < 0:
        raise ValueError(f"an expected version is 0 or greater, not {version}")
    return version


def _outcome(append: Append, outcome: str, version: int, position: int, created_at: datetime) -> Appended | Exception:
    match outcome:
        case "appended" | "repeated":
            return Appended(version, position, created_at, repeated=outcome == "repeated")
        case "wrong_version":
            return WrongExpectedVersion(append.stream_id, append.expected, actual=version)
        case "duplicate_event":
            return DuplicateEvent(f"an event of this append to {append.stream_id} exists already, and isn't its own")
        case "stream_deleted":
            return StreamDeleted(f"stream {append.stream_id} was deleted")
        case "claim_lost":
            return ClaimLost(f"a claim of this append to {append.stream_id} isn't held any more")
        case _:
            return AssertionError(f"unknown outcome {outcome}")
