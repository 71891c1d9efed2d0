"""Group commit: what queues while one batch commits goes into the next, in one call, one transaction, one fsync.

Under load the cost of a commit is shared by all who wait; alone, an append is sent at once. Event ids make a
batch safe to send again, so a connection that dies in the middle leads to a repetition, never to a false answer.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar
from uuid import UUID

import asyncpg
import structlog

import tracing
from eventstore import telemetry
from eventstore.pool import UNAVAILABLE, Line
from eventstore.store import (
    ALL_STREAM,
    Append,
    Appended,
    ClaimLost,
    DuplicateEvent,
    ExpectedVersion,
    ReservedStream,
    StoreError,
    StreamDeleted,
    StreamNotFound,
    WrongExpectedVersion,
)

T = TypeVar("T")

log = structlog.get_logger(__name__)

_EXPECTED = {"any": -1, "no_stream": -2, "stream_exists": -3}

_LOCKED = (asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError)
RACES = (
    *_LOCKED,
    asyncpg.SerializationError,
    asyncpg.UniqueViolationError,
    asyncpg.ForeignKeyViolationError,
)
"""Another transaction came in between: nothing was written, the next attempt sees what it did."""

_ATTEMPTS = 8
_PATIENCE = 30.0

# Longer than our own processes wait for each other as a rule.
_GIVE_WAY = "set lock_timeout = '30ms'"
_HASTY_SECONDS = 60.0


async def again(
    call: Callable[[], Awaitable[T]], *, after: tuple[type[Exception], ...], within: float | None = None
) -> T:
    """What `call` gives, which is made again after such errors: a few times within about a second.

    All attempts together take `within` seconds at most, half a minute as a rule: then TimeoutError, and nobody knows
    whether the last one was done. Who meets another program's locks may be unlucky as often as that takes.
    """
    attempt = 1
    async with asyncio.timeout(within or _PATIENCE):
        while True:
            try:
                return await call()
            except after as error:
                # asyncpg's complaints about wrong arguments are interface errors, too.
                if attempt == _ATTEMPTS or isinstance(error, ValueError):
                    raise
                log.info("store.again", attempt=attempt, reason=type(error).__name__)
                attempt += not isinstance(error, _LOCKED)
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, no secret


@dataclass(slots=True, eq=False)
class _Waiting:
    append: Append
    event_ids: frozenset[UUID]
    claims: frozenset[tuple[str, str]]
    """Kinds and keys."""
    size: int
    """Bytes."""
    span: tracing.Span
    answer: "asyncio.Future[Appended]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Appender:
    """The one way in which a process writes events, on a line of its own: reads that take long don't hold it up."""

    MAX_APPENDS = 512
    """Appends in a batch: more would make the first of them wait without sharing the commit any further."""
    MAX_BYTES = 8 * 1024 * 1024
    """Payload in a batch. A single larger append goes alone."""
    MAX_WAITING = 10_000
    """Appends that may wait; whoever comes next waits before it queues (back-pressure)."""

    def __init__(self, line: Line, statement: str, alone: str) -> None:
        self._line = line
        self._statement = statement
        self._alone = alone
        self._queue: OrderedDict[_Waiting, None] = OrderedDict()
        self._room = asyncio.Semaphore(self.MAX_WAITING)
        self._task: asyncio.Task[None] | None = None
        self._hasty_until = 0.0
        self.batches = 0
        self.appends = 0

    async def append(self, append: Append) -> Appended:
        """Append, and answer when it is on disk.

        Whoever is cancelled while waiting leaves no half-done append: either it wasn't sent, or it will be whole.
        """
        waiting = _checked(append)
        async with self._room:
            self._queue[waiting] = None
            if self._task is None:
                # In no command's context: it is at work for all of them.
                self._task = asyncio.create_task(self._drain(), name="appender", context=Context())
            try:
                return await waiting.answer
            finally:
                # Its place is somebody else's now, so it must not stay in it.
                self._queue.pop(waiting, None)
                waiting.span.end()

    async def close(self) -> None:
        """Wait until everything that was queued has its answer."""
        while self._task is not None:
            await asyncio.wait([self._task])
        await self._line.close()

    async def _drain(self) -> None:
        try:
            while batch := self._next_batch():
                await self._commit(batch)
                # Those who just got their answer may have more: let them queue for the next batch.
                await asyncio.sleep(0)
        finally:
            self._task = None
            if self._queue and not asyncio.current_task().cancelling():  # pyright: ignore[reportOptionalMemberAccess] - runs in a task
                self._task = asyncio.create_task(self._drain(), name="appender", context=Context())

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        ids: set[UUID] = set()
        claims: set[tuple[str, str]] = set()
        size = 0
        while self._queue and len(batch) < self.MAX_APPENDS:
            waiting = next(iter(self._queue))
            size += waiting.size
            # A repetition waits for its original's batch: then it finds the events and gets the same answer. Likewise
            # who names a claim finds what those before have made of it.
            known = not ids.isdisjoint(waiting.event_ids) or not claims.isdisjoint(waiting.claims)
            if batch and (known or size > self.MAX_BYTES):
                break
            ids |= waiting.event_ids
            claims |= waiting.claims
            batch.append(waiting)
            del self._queue[waiting]
        return batch

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        began = time.perf_counter()
        try:
            outcomes = await self._send([waiting.append for waiting in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, every waiting caller has to hear of it
            if len(batch) > 1 and not is_outage(error):
                # One of them is to blame, the others are not: halve the batch until it is alone.
                middle = len(batch) // 2
                await self._commit(batch[:middle])
                await self._commit(batch[middle:])
                return
            outcomes = [error] * len(batch)
        self.batches += 1
        self.appends += len(batch)
        telemetry.observe_batch([waiting.span for waiting in batch], outcomes, time.perf_counter() - began)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(outcome, Appended):
                waiting.answer.set_result(outcome)
            else:
                waiting.answer.set_exception(outcome)

    async def _send(self, appends: Sequence[Append]) -> Sequence[Appended | Exception]:
        if len(appends) == 1 and _is_plain(appends[0]):
            call = partial(self._call, self._alone, *_arguments_alone(appends[0]))
        else:
            call = partial(self._call, self._statement, *_arguments(appends))
        rows = await again(call, after=(*RACES, *UNAVAILABLE))
        return [
            _outcome(append, row["outcome"], row["first_version"], row["first_position"], row["created_at"])
            for append, row in zip(appends, rows, strict=True)
        ]

    async def _call(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        now = asyncio.get_running_loop().time()
        if self._hasty_until and now > self._hasty_until:
            await self._line.fetch("reset lock_timeout")
            self._hasty_until = 0.0
        try:
            return await self._line.fetch(statement, *arguments)
        except asyncpg.DeadlockDetectedError:
            # Only another program takes rows in another order than we do. PostgreSQL needs a second to find that out,
            # in which nobody appends. So for a while we give way long before.
            self._hasty_until = now + _HASTY_SECONDS
            await self._line.fetch(_GIVE_WAY)
            raise


def is_outage(error: Exception) -> bool:
    """Whether the server is away. asyncpg's complaints about wrong arguments are interface errors, too."""
    return isinstance(error, UNAVAILABLE) and not isinstance(error, ValueError)


def _checked(append: Append) -> _Waiting:
    if append.stream_id == ALL_STREAM:
        raise ReservedStream
    if not append.events:
        raise ValueError("an append needs at least one event")
    event_ids = frozenset(event.event_id for event in append.events)
    if len(event_ids) < len(append.events):
        raise DuplicateEvent(f"two events of one append to {append.stream_id} have the same id")
    claims = frozenset((claim.kind, claim.key) for claim in (*append.confirm, *append.release))
    size = sum(len(event.data) + len(event.metadata) for event in append.events)
    span = tracing.following("append", tracing.current().traceparent)
    return _Waiting(append, event_ids, claims, size, span)


def _is_plain(append: Append) -> bool:
    return len(append.events) == 1 and not append.confirm and not append.release


def _arguments_alone(append: Append) -> tuple[object, ...]:
    """What waybill.append_one takes."""
    (event,) = append.events
    return (
        append.stream_id,
        expected_number(append.expected),
        event.event_id,
        event.type,
        event.causation_id,
        event.correlation_id,
        event.data,
        event.metadata,
    )


def _arguments(appends: Sequence[Append]) -> tuple[object, ...]:
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
        [expected_number(append.expected) for append in appends],
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


def expected_number(version: ExpectedVersion) -> int:
    """The expected version as the functions in schema waybill take it."""
    if isinstance(version, str):
        return _EXPECTED[version]
    if version < 0:
        raise ValueError(f"an expected version is 0 or greater, not {version}")
    return version


def _outcome(append: Append, outcome: str, version: int, position: int, created_at: datetime) -> Appended | Exception:
    match outcome:
        case "appended" | "repeated":
            return Appended(version, position, created_at, repeated=outcome == "repeated")
        case "duplicate_event":
            return DuplicateEvent(f"an event of this append to {append.stream_id} exists already, and isn't its own")
        case "claim_lost":
            return ClaimLost(f"a claim of this append to {append.stream_id} isn't held any more")
        case _:
            return refusal(outcome, append.stream_id, append.expected, version)


def refusal(outcome: str, stream_id: str, expected: ExpectedVersion, version: int) -> StoreError | AssertionError:
    """What the state of a stream has against an append, a link or a deletion."""
    match outcome:
        case "wrong_version":
            return WrongExpectedVersion(stream_id, expected, actual=version)
        case "stream_deleted":
            return StreamDeleted(stream_id)
        case "no_stream":
            return StreamNotFound(stream_id)
        case _:
            return AssertionError(f"unknown outcome {outcome}")
