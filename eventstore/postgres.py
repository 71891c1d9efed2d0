"""The event store in PostgreSQL: the tables of Elixir's EventStore, and Waybill's own beside them.

Every method is one round trip. What must be atomic is one statement, or a function in migrations/.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Self
from uuid import UUID

import asyncpg

from eventstore.appender import LOCKS, RACES, Appender, again, expected_number, refusal
from eventstore.pool import Line, open_connection, open_pool
from eventstore.reader import BY_KEY, SQL, Reader
from eventstore.store import (
    ALL_STREAM,
    Answer,
    Append,
    Appended,
    BlockedProduct,
    Claim,
    EventNotFound,
    ExpectedVersion,
    KeptProducts,
    Linked,
    Recollection,
    RecordedEvent,
    ReservedStream,
    ReserveOutcome,
    Snapshot,
    Start,
)
from eventstore.subscriptions import SessionSubscription, owning

if TYPE_CHECKING:
    from eventstore.pool import Connection, Pool

# Seconds. No index tells what was linked from a stream, so to remove one is to look through all events.
_PATIENCE = 600
# Likewise: longer than one of them takes.
_LONGEST_HOLD = "15min"


class PostgresStore(Reader):
    """An EventStore (see store.py) on a pool of connections; a subscription has one of its own, to `url`."""

    def __init__(self, pool: "Pool", url: str) -> None:
        super().__init__(pool)
        self._pool = pool
        self._url = url
        self.appender = Appender(Line(url, **BY_KEY, **LOCKS), SQL["append"], SQL["append_one"])

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, pool_size: int = 10) -> AsyncGenerator[Self]:
        """The store at `url`, with its connections; what was queued is written before they close."""
        async with open_pool(url, pool_size, **BY_KEY) as pool:
            store = cls(pool, url)
            try:
                yield store
            finally:
                await store.appender.close()

    @property
    def pool(self) -> "Pool":
        """For what is kept beside the events, in the same database."""
        return self._pool

    async def append(self, append: Append) -> Appended:
        return await self.appender.append(append)

    async def link(self, stream_id: str, event_ids: Sequence[UUID], *, expected: ExpectedVersion = "any") -> Linked:
        if stream_id == ALL_STREAM:
            raise ReservedStream
        if not event_ids:
            raise ValueError("a link needs at least one event")
        row = await self._one_row("link", stream_id, expected_number(expected), event_ids)
        match row["outcome"]:
            case "linked":
                return Linked(row["version"], row["links"], len(event_ids) - row["links"])
            case "unknown_event":
                raise EventNotFound(row["unknown_id"])
            case outcome:
                raise refusal(outcome, stream_id, expected, row["version"])

    async def delete_stream(self, stream_id: str, *, expected: ExpectedVersion = "any", hard: bool = False) -> None:
        if stream_id == ALL_STREAM:
            raise ReservedStream
        statement = "purge_stream" if hard else "delete_stream"
        row = await self._one_row(statement, stream_id, expected_number(expected))
        if row["outcome"] != "deleted":
            raise refusal(row["outcome"], stream_id, expected, row["version"])

    @asynccontextmanager
    async def no_subscription_begins(self) -> AsyncGenerator["Connection"]:
        """Within this block nobody who isn't known yet begins to read by a subscription.

        They do once nothing was said on the connection for a quarter of an hour: whoever is in the block may have been
        stopped. Then the next statement on it, or leaving the block, raises what asyncpg does. Other programs begin
        when they like.
        """
        async with (
            open_connection(self._url, idle_in_transaction_session_timeout=_LONGEST_HOLD) as connection,
            connection.transaction(),
        ):
            await connection.execute(SQL["no_subscription_begins"])
            yield connection

    async def is_writable(self) -> bool:
        """Whether events can be appended: not to a standby, which answers everything else."""
        return await self._pool.fetchval(SQL["writable"])

    async def _one_row(self, statement: str, *arguments: object) -> asyncpg.Record:
        """What a function says that another transaction may come in between of."""
        call = partial(self._pool.fetchrow, SQL[statement], *arguments, timeout=_PATIENCE)
        row = await again(call, after=RACES, within=_PATIENCE)
        assert row is not None, "the function has an answer to everything"
        return row

    def subscribe(
        self, name: str, *, stream_id: str = ALL_STREAM, start: Start = "origin", batch: int = 1000
    ) -> AbstractAsyncContextManager[SessionSubscription]:
        return owning(self._url, name, stream_id, start, batch)

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        await self._pool.execute(
            SQL["record_snapshot"],
            snapshot.source_id,
            snapshot.source_version,
            snapshot.source_type,
            snapshot.data,
            snapshot.metadata,
        )

    async def reserve(self, claim: Claim, command_id: UUID, *, lease_seconds: float) -> ReserveOutcome:
        lease = timedelta(seconds=lease_seconds)
        return await self._pool.fetchval(SQL["reserve"], claim.kind, claim.key, claim.owner, command_id, lease)

    async def release(self, claim: Claim, command_id: UUID) -> bool:
        found = await self._pool.fetchval(SQL["release"], claim.kind, claim.key, claim.owner, command_id)
        return found is not None

    async def claim_owner(self, kind: str, key: str) -> UUID | None:
        return await self._pool.fetchval(SQL["claim_owner"], kind, key)

    async def recall(self, command_id: UUID, event_id: UUID) -> Recollection:
        row = await self._pool.fetchrow(SQL["recall"], command_id, event_id)
        assert row is not None, "it has a row for nothing, too"
        command, fingerprint, outcome, *event = row
        return Recollection(
            event=RecordedEvent._make(event) if event[0] else None,
            answer=Answer(command, fingerprint, outcome) if command else None,
        )

    async def remember(self, answer: Answer) -> Answer:
        kept = None
        while kept is None:
            kept = await self._pool.fetchrow(SQL["remember"], *_columns(answer))
        return Answer(*kept.values())

    async def blocked_products(self, among: Sequence[UUID] | None = None) -> list[BlockedProduct]:
        rows = await self._pool.fetch(SQL["blocked_products"], among)
        return [BlockedProduct(*row.values()) for row in rows]

    async def kept_products(self, stream_id: str) -> KeptProducts:
        row = await self._pool.fetchrow(SQL["kept_products"], stream_id)
        return KeptProducts(*row.values()) if row else KeptProducts(0, [])

    async def keep_products(self, stream_id: str, products: Sequence[UUID], *, seen: int, version: int) -> None:
        await self._pool.execute(SQL["keep_products"], stream_id, products, seen, version)

    async def block_product(self, product_id: UUID, *, once: Answer | None = None) -> bool:
        return await self._pool.fetchval(SQL["block_product"], product_id, *_columns(once)) is not None

    async def unblock_product(self, product_id: UUID, *, once: Answer | None = None) -> bool:
        return await self._pool.fetchval(SQL["unblock_product"], product_id, *_columns(once)) is not None

    async def ping(self) -> None:
        """Raises if the database can't be asked."""
        await self._pool.fetchval(SQL["stream"], ALL_STREAM)


def _columns(answer: Answer | None) -> tuple[object, object, object]:
    return (answer.command_id, answer.fingerprint, answer.outcome) if answer else (None, None, None)
