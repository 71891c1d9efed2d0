"""Persistent subscriptions: each has one owner at a time, who goes on where the last one has stopped.

The owner holds an advisory lock in a session of its own, which also reads, listens and moves the checkpoint: when it
is gone, all of that ends at once, and nothing is written by who owns the subscription no longer. A session that falls
silent, because its process was stopped, say, is ended by whoever waits for the subscription.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol, Self

import structlog

from eventstore.appender import UNAVAILABLE
from eventstore.listener import wait_for_hint
from eventstore.pool import open_connection
from eventstore.reader import BY_KEY, SQL, Reader
from eventstore.store import RecordedEvent, Start, SubscriptionLost

if TYPE_CHECKING:
    import asyncpg

    from eventstore.pool import Connection

log = structlog.get_logger(__name__)

EVENTS_CHANNEL = "public.events"
POLL = 0.5
"""Seconds between two looks for events that no notification has told of, and for a subscription to become free."""

SILENCE = 10.0
"""Seconds after which an owner that says nothing is taken for stopped. Whoever lives speaks once in HEARTBEAT."""
HEARTBEAT = 1.0

OWNER = "waybill owner"
"""What the sessions are called that speak so often. The name stands in sql/store.sql, and in handlers.sql, too."""

# A host that vanished says no goodbye: PostgreSQL is to find out in ten seconds and not in two hours.
_KEEPALIVES = {"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3"}


class Ownership(Protocol):
    """What a store gives to the owner of a subscription."""

    woken: asyncio.Event
    """Set by a hint that there is something to read."""

    async def read(self, after: int, limit: int) -> list[RecordedEvent]: ...

    async def advance(self, seen: int, to: int) -> bool:
        """Move the checkpoint, unless it isn't where the owner has seen it last. Says whether it did."""
        ...


class OwnedSubscription:
    """A Subscription (see store.py)."""

    def __init__(self, ownership: Ownership, name: str, checkpoint: int, batch: int) -> None:
        self.checkpoint = checkpoint
        self._delivered = checkpoint
        self._ownership = ownership
        self._name = name
        self._batch = batch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[RecordedEvent]:
        woken = self._ownership.woken
        while True:
            woken.clear()
            if events := await self._ownership.read(self._delivered, self._batch):
                self._delivered = events[-1].number
                return events
            await wait_for_hint(woken, POLL)

    async def ack(self, event: RecordedEvent) -> None:
        if event.number > self._delivered:
            raise ValueError(f"event {event.number} was not delivered yet, {self._delivered} was the last")
        if event.number <= self.checkpoint:
            return
        if not await self._ownership.advance(self.checkpoint, event.number):
            raise SubscriptionLost(f"the checkpoint of {self._name} isn't at {self.checkpoint} any more")
        self.checkpoint = event.number


def start_after(start: Start) -> int | None:
    """The number of the event that a new subscription begins behind; None is the last one."""
    match start:
        case "origin":
            return 0
        case "current":
            return None
        case _ if start >= 0:
            return start
        case _:
            raise ValueError(f"a subscription starts after 0 or a greater number, not {start}")


class SessionSubscription(OwnedSubscription):
    """A Subscription in PostgreSQL, and the session by which it is owned."""

    def __init__(self, ownership: "_OwnedBySession", name: str, checkpoint: int, batch: int) -> None:
        super().__init__(ownership, name, checkpoint, batch)
        self.session = ownership.session


@asynccontextmanager
async def owning(url: str, name: str, stream_id: str, start: Start, batch: int) -> AsyncGenerator[SessionSubscription]:
    """The subscription in the event store at `url`, once this is its owner."""
    async with AsyncExitStack() as stack:
        with _losing():
            connection = await stack.enter_async_context(
                open_connection(url, application_name=OWNER, **BY_KEY, **_KEEPALIVES)
            )
            number, checkpoint = await _acquire(connection, name, stream_id, start)
            session = Session(connection)
            ownership = _OwnedBySession(session, stream_id, number)
            await connection.add_listener(
                EVENTS_CHANNEL, lambda _connection, _pid, _channel, payload: ownership.notice(str(payload))
            )
            connection.add_termination_listener(lambda _connection: ownership.woken.set())
        log.info("subscription.owned", name=name, stream_id=stream_id, checkpoint=checkpoint)
        await stack.enter_async_context(_speaking(session))
        yield SessionSubscription(ownership, name, checkpoint, batch)


@asynccontextmanager
async def _speaking(session: "Session") -> AsyncGenerator[None]:
    async def speak() -> None:
        try:
            while True:
                await asyncio.sleep(HEARTBEAT)
                await session.execute(SQL["sign_of_life"])
        except SubscriptionLost:
            pass  # The owner is told by its own next statement.
        except Exception as error:  # noqa: BLE001 - who can't say that he lives mustn't go on as if he had
            log.warning("subscription.fell_silent", reason=type(error).__name__)
            session.end()

    task = asyncio.create_task(speak(), name="sign of life")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@contextmanager
def _losing() -> Generator[None]:
    try:
        yield
    except UNAVAILABLE as error:
        # asyncpg's complaints about wrong arguments are interface errors, too.
        if isinstance(error, ValueError):
            raise
        raise SubscriptionLost(f"no session in the database: {type(error).__name__}") from error


async def _acquire(connection: "Connection", name: str, stream_id: str, start: Start) -> tuple[int, int]:
    """Wait until this session owns the subscription; gives its number and its checkpoint."""
    while True:
        number = await _enter(connection, name, stream_id, start)
        await _lock(connection, name, number)
        # Not before: the last owner may just have moved it. Gone: the stream was purged meanwhile.
        checkpoint = await connection.fetchval(SQL["checkpoint"], number)
        if checkpoint is not None:
            return number, checkpoint


async def _enter(connection: "Connection", name: str, stream_id: str, start: Start) -> int:
    after = start_after(start)
    while (number := await connection.fetchval(SQL["subscription"], stream_id, name)) is None:
        async with connection.transaction():
            # It would see the streams begin and not end.
            await connection.execute(SQL["nothing_is_purged"])
            await connection.fetchval(SQL["subscribe"], stream_id, name, after)
    return number


async def _lock(connection: "Connection", name: str, number: int) -> None:
    clock = asyncio.get_running_loop().time
    look_at = clock()
    # Asked again and again: a statement that waits would keep the database from cleaning up.
    while not await connection.fetchval(SQL["own"], number):
        if clock() >= look_at:
            # Locks and sessions are nothing to look through all the time.
            look_at = clock() + SILENCE / 2
            if await connection.fetchval(SQL["displace"], number, timedelta(seconds=SILENCE)):
                log.warning("subscription.displaced", name=name)
        await asyncio.sleep(POLL * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, no secret


class Session:
    """The owner's session: what goes through it is done by the owner, or not at all. One statement at a time.

    Raises SubscriptionLost when it is gone.
    """

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def fetch(self, statement: str, *arguments: object) -> "list[asyncpg.Record]":
        async with self._turn:
            with _losing():
                return await self._connection.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> "asyncpg.Record | None":
        rows = await self.fetch(statement, *arguments)
        return rows[0] if rows else None

    async def execute(self, statement: str, *arguments: object) -> None:
        await self.fetch(statement, *arguments)

    def end(self) -> None:
        """Give up what it owns, at once."""
        self._connection.terminate()


class _OwnedBySession:
    """Ownership by a session of PostgreSQL."""

    def __init__(self, session: Session, stream_id: str, number: int) -> None:
        self.woken = asyncio.Event()
        self.session = session
        self._reader = Reader(session)
        self._stream_id = stream_id
        self._number = number

    def notice(self, payload: str) -> None:
        if payload.startswith(f"{self._stream_id},"):
            self.woken.set()

    async def read(self, after: int, limit: int) -> list[RecordedEvent]:
        return await self._reader.read_stream(self._stream_id, after=after, limit=limit)

    async def advance(self, seen: int, to: int) -> bool:
        return await self.session.fetchrow(SQL["advance"], self._number, seen, to) is not None
