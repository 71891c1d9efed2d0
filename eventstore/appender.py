"""Group commit: what queues while one batch commits goes into the next, in one call, one transaction, one fsync.

Under load the cost of a commit is shared by all who wait; alone, an append is sent at once. Event ids make a
batch safe to send again, so a connection that dies in the middle leads to a repetition, never to a false answer.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TypeVar

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

# Who holds a lock may go on doing so: that is not a matter of trying again.
_AGAIN = (*(race for race in RACES if race is not asyncpg.LockNotAvailableError), *UNAVAILABLE)

_ATTEMPTS = 8
_PATIENCE = 30.0

# Milliseconds for which a statement waits for a lock. A batch waits for longer than PostgreSQL's deadlock_timeout is as
# a rule, so that who is in a deadlock is told so; the halves of one that waited in vain don't, for others come after
# them; and who gives way waits for longer than our own processes hold each other up.
_BATCH_WAITS = 1500
_HALF_WAITS = 100
_HASTE = 30
_HASTY_SECONDS = 60.0
# Seconds between two attempts of an append that is set aside: it may be a moment's contention, or an open transaction.
_SHORTEST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5

LOCKS = {"lock_timeout": f"{_BATCH_WAITS}ms"}
"""Settings of PostgreSQL that the appender's line is to be opened with."""


async def again(
    call: Callable[[], Awaitable[T]], *, after: tuple[type[Exception], ...], within: float | None = None
) -> T:
    """What `call` gives, which is made again after such errors: a few times within about a second.

    All attempts together take `within` seconds at most, half a minute as a rule, unless the first one's own bound is a
    later one: then TimeoutError, and nobody knows whether the last one was done. Who meets another program's locks may
    be unlucky as often as that takes.
    """
    deadline = asyncio.get_running_loop().time() + (within or _PATIENCE)
    try:
        return await call()
    except after as error:
        attempt = _next_attempt(1, error)
    async with asyncio.timeout_at(deadline):
        while True:
            await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, no secret
            try:
                return await call()
            except after as error:
                attempt = _next_attempt(attempt, error)


def _next_attempt(attempt: int, error: Exception) -> int:
    """Its number. Raises the error if there is to be none."""
    # asyncpg's complaints about wrong arguments are interface errors, too.
    if attempt == _ATTEMPTS or isinstance(error, ValueError):
        raise error
    log.info("store.again", attempt=attempt, reason=type(error).__name__)
    return attempt + (not isinstance(error, _LOCKED))


@dataclass(slots=True, eq=False)
class _Waiting:
    append: Append
    names: Sequence[object]
    """Ids of events, and kinds and keys of claims: no two of a batch have one in common."""
    size: int
    """Bytes."""
    span: tracing.Span
    answer: "asyncio.Future[Appended]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    until: float = 0
    """When it is given up, once it has met a lock that somebody holds."""
    attempts: int = 0
    """How often it has waited for a lock alone and in vain."""
    due: float = 0
    """When it may try again."""

    @property
    def touches(self) -> frozenset[object]:
        """Who has one of them in common with an append before it must not overtake it."""
        return frozenset((*self.names, self.append.stream_id))


class Appender:
    """The one way in which a process writes events, on a line of its own: reads that take long don't hold it up."""

    MAX_APPENDS = 512
    """Appends in a batch: more would make the first of them wait without sharing the commit any further."""
    MAX_BYTES = 8 * 1024 * 1024
    """Payload in a batch. A single larger append goes alone."""
    MAX_WAITING = 10_000
    """Appends that may wait; whoever comes next waits before it queues (back-pressure)."""
    MAX_WAITING_BYTES = 64 * 1024 * 1024
    """Payload that may wait. A single larger append may when nothing else does."""

    def __init__(self, line: Line, statement: str, alone: str) -> None:
        self._line = line
        self._statement = statement
        self._alone = alone
        self._queue: OrderedDict[_Waiting, None] = OrderedDict()
        # Those that wait for locks that somebody holds, and behind them those that must not overtake them.
        self._aside: OrderedDict[_Waiting, None] = OrderedDict()
        self._entrance = asyncio.Lock()
        self._somebody_came = asyncio.Event()
        self._somebody_left = asyncio.Event()
        self._waiting = 0
        self._waiting_bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._lock_timeout: int | None = _BATCH_WAITS
        self._hasty_until = 0.0
        self.batches = 0
        self.appends = 0

    async def append(self, append: Append) -> Appended:
        """Append, and answer when it is on disk.

        Whoever is cancelled while waiting leaves no half-done append: either it wasn't written, or it will be whole.
        Raises TimeoutError when somebody has held locks that it needs for half a minute.
        """
        waiting = _checked(append)
        await self._enter(waiting.size)
        try:
            self._queue[waiting] = None
            self._somebody_came.set()
            if self._task is None:
                # In no command's context: it is at work for all of them.
                self._task = asyncio.create_task(self._drain(), name="appender", context=Context())
            return await waiting.answer
        finally:
            # Its place is somebody else's now, so it must not stay in it.
            self._queue.pop(waiting, None)
            self._aside.pop(waiting, None)
            self._leave(waiting.size)
            waiting.span.end()

    async def _enter(self, size: int) -> None:
        # One after the other, so that a large one isn't overtaken for ever.
        async with self._entrance:
            while self._waiting >= self.MAX_WAITING or (
                self._waiting and self._waiting_bytes + size > self.MAX_WAITING_BYTES
            ):
                self._somebody_left.clear()
                await self._somebody_left.wait()
            self._waiting += 1
            self._waiting_bytes += size

    def _leave(self, size: int) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        self._somebody_left.set()

    async def close(self) -> None:
        """Wait until everything that was queued has its answer."""
        while self._task is not None:
            await asyncio.wait([self._task])
        await self._line.close()

    async def _drain(self) -> None:
        try:
            while self._queue or self._aside:
                await self._commit(self._next_batch())
                if self._aside:
                    await self._look_after_those_aside()
                # Those who just got their answer may have more: let them queue for the next batch.
                await asyncio.sleep(0)
        finally:
            self._task = None
            if (self._queue or self._aside) and not asyncio.current_task().cancelling():  # pyright: ignore[reportOptionalMemberAccess] - runs in a task
                self._task = asyncio.create_task(self._drain(), name="appender", context=Context())

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        names: set[object] = set()
        size = 0
        while self._queue and len(batch) < self.MAX_APPENDS:
            waiting = next(iter(self._queue))
            size += waiting.size
            # A repetition waits for its original's batch: then it finds the events and gets the same answer. Likewise
            # who names a claim finds what those before have made of it.
            if batch and (size > self.MAX_BYTES or not names.isdisjoint(waiting.names)):
                break
            names.update(waiting.names)
            batch.append(waiting)
            del self._queue[waiting]
        return batch

    async def _commit(self, batch: Sequence[_Waiting], lock_timeout: int = _BATCH_WAITS) -> None:
        """Write the batch, but for those that have to wait behind somebody who was set aside."""
        if self._aside:
            batch = self._without_followers(batch)
        if batch:
            await self._write(batch, lock_timeout)

    async def _write(self, batch: Sequence[_Waiting], lock_timeout: int) -> bool:
        """Whether no lock that somebody holds was in the way."""
        began = time.perf_counter()
        try:
            outcomes = await self._send([waiting.append for waiting in batch], lock_timeout)
        except asyncpg.LockNotAvailableError:
            await self._give_way(batch)
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, every waiting caller has to hear of it
            if len(batch) > 1 and not is_outage(error):
                await self._halve(batch, lock_timeout)
                return True
            outcomes = [error] * len(batch)
        self.batches += 1
        self.appends += len(batch)
        telemetry.observe_batch([waiting.span for waiting in batch], outcomes, time.perf_counter() - began)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            _answer(waiting, outcome)
        return True

    async def _halve(self, batch: Sequence[_Waiting], lock_timeout: int) -> None:
        """One of them is to blame, the others are not: halve the batch until it is alone."""
        middle = len(batch) // 2
        await self._commit(batch[:middle], lock_timeout)
        await self._commit(batch[middle:], lock_timeout)

    # --- Locks that somebody holds

    async def _give_way(self, batch: Sequence[_Waiting]) -> None:
        """Somebody holds a lock that one of them needs; the others are not to wait for it."""
        now = asyncio.get_running_loop().time()
        for waiting in batch:
            waiting.until = waiting.until or now + _PATIENCE
        # Nothing of it was written: who has given up leaves nothing. If all need the same lock, all are told in time.
        batch = [waiting for waiting in batch if not _over(waiting, now)]
        if len(batch) > 1:
            await self._halve(batch, _HALF_WAITS)
        elif batch:
            (waiting,) = batch
            if not waiting.attempts:
                log.info("append.held_up", stream_id=waiting.append.stream_id)
            pause = min(_SHORTEST_PAUSE * 2**waiting.attempts, _LONGEST_PAUSE)
            waiting.due = now + random.uniform(pause / 2, pause)  # noqa: S311 - jitter, no secret
            waiting.attempts += 1
            self._aside.setdefault(waiting)

    def _without_followers(self, batch: Sequence[_Waiting]) -> list[_Waiting]:
        now = asyncio.get_running_loop().time()
        free: list[_Waiting] = []
        touched = {name for waiting in self._aside for name in waiting.touches}
        for waiting in batch:
            if touched.isdisjoint(waiting.touches):
                free.append(waiting)
            else:
                waiting.until = waiting.until or now + _PATIENCE
                touched |= waiting.touches
                self._aside[waiting] = None
        return free

    async def _look_after_those_aside(self) -> None:
        """Try one of them again, alone and in haste, if it is time; if it isn't and nobody else is here, wait."""
        now = asyncio.get_running_loop().time()
        self._aside = OrderedDict.fromkeys(waiting for waiting in self._aside if not _over(waiting, now))
        touched: set[object] = set()
        first: _Waiting | None = None
        for waiting in self._aside:
            if touched.isdisjoint(waiting.touches) and (first is None or waiting.due < first.due):
                first = waiting
            touched |= waiting.touches
        if first is None:
            return
        if first.due <= now:
            if await self._write([first], _HASTE):
                self._back_into_the_queue(first)
        elif not self._queue:
            self._somebody_came.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._somebody_came.wait(), min(first.due, first.until) - now)

    def _back_into_the_queue(self, done: _Waiting) -> None:
        """What was only waiting behind somebody goes on, in its order and before those who came later."""
        self._aside.pop(done, None)
        followers = [waiting for waiting in self._aside if not waiting.attempts]
        for waiting in reversed(followers):
            del self._aside[waiting]
            self._queue[waiting] = None
            self._queue.move_to_end(waiting, last=False)

    # --- The database

    async def _send(self, appends: Sequence[Append], lock_timeout: int) -> Sequence[Appended | Exception]:
        if len(appends) == 1 and _is_plain(appends[0]):
            call = partial(self._call, lock_timeout, self._alone, *_arguments_alone(appends[0]))
        else:
            call = partial(self._call, lock_timeout, self._statement, *_arguments(appends))
        rows = await again(call, after=_AGAIN)
        return [
            _outcome(append, row["outcome"], row["first_version"], row["first_position"], row["created_at"])
            for append, row in zip(appends, rows, strict=True)
        ]

    async def _call(self, lock_timeout: int, statement: str, *arguments: object) -> list[asyncpg.Record]:
        now = asyncio.get_running_loop().time()
        if now < self._hasty_until:
            lock_timeout = min(lock_timeout, _HASTE)
        try:
            if lock_timeout != self._lock_timeout:
                await self._line.fetch(f"set lock_timeout = {lock_timeout}")
                self._lock_timeout = lock_timeout
            return await self._line.fetch(statement, *arguments)
        except asyncpg.DeadlockDetectedError:
            # Only another program takes rows in another order than we do. PostgreSQL needs a second to find that out,
            # in which nobody appends. So for a while we give way long before.
            self._hasty_until = now + _HASTY_SECONDS
            raise
        except UNAVAILABLE:
            # The next connection begins anew.
            self._lock_timeout = None
            raise


def _over(waiting: _Waiting, now: float) -> bool:
    """Whether nobody waits for it any more; who has waited for too long is told so."""
    if now >= waiting.until and not waiting.answer.done():
        needs = f"that an append to {waiting.append.stream_id}, or one before it, needs"
        late = TimeoutError(f"somebody has held locks {needs} for {_PATIENCE:g} s: send it again later")
        telemetry.observe_given_up(waiting.span, late)
        _answer(waiting, late)
    return waiting.answer.done()


def _answer(waiting: _Waiting, outcome: Appended | Exception) -> None:
    if waiting.answer.done():
        return
    if isinstance(outcome, Appended):
        waiting.answer.set_result(outcome)
    else:
        waiting.answer.set_exception(outcome)


def is_outage(error: Exception) -> bool:
    """Whether the server is away. asyncpg's complaints about wrong arguments are interface errors, too."""
    return isinstance(error, UNAVAILABLE) and not isinstance(error, ValueError)


def _checked(append: Append) -> _Waiting:
    if append.stream_id == ALL_STREAM:
        raise ReservedStream
    if not append.events:
        raise ValueError("an append needs at least one event")
    names: list[object] = [event.event_id for event in append.events]
    if len(names) > 1 and len(set(names)) < len(names):
        raise DuplicateEvent(f"two events of one append to {append.stream_id} have the same id")
    names += [(claim.kind, claim.key) for which in (append.confirm, append.release) for claim in which]
    size = 0
    for event in append.events:
        size += len(event.data) + len(event.metadata)
    span = tracing.following("append", tracing.current().traceparent)
    return _Waiting(append, names, size, span)


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
