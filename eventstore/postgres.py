"""The event store in PostgreSQL: the tables of Elixir's EventStore, and Waybill's own beside them.

Every method is one round trip. What must be atomic is one statement, or a function in migrations/.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from eventstore.appender import Appender
from eventstore.pool import open_pool
from eventstore.statements import load_statements
from eventstore.store import (
    ALL_STREAM,
    Answer,
    Append,
    Appended,
    BlockedProduct,
    Claim,
    History,
    Recollection,
    RecordedEvent,
    ReserveOutcome,
    Snapshot,
    StreamDeleted,
)

if TYPE_CHECKING:
    from eventstore.pool import Pool

_SQL = load_statements("eventstore", "store.sql")


class PostgresStore:
    """An EventStore (see store.py) on a pool of connections."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self.appender = Appender(pool, _SQL["append"])

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, pool_size: int = 10) -> AsyncGenerator[Self]:
        """The store at `url`, with its connections; what was queued is written before they close."""
        # Every look-up is by key: a plan made while a table was small must not scan it when it has grown.
        async with open_pool(url, pool_size, enable_seqscan="off") as pool:
            store = cls(pool)
            try:
                yield store
            finally:
                await store.appender.close()

    async def append(self, append: Append) -> Appended:
        return await self.appender.append(append)

    async def load(self, stream_id: str, event_id: UUID) -> History:
        rows = await self._pool.fetch(_SQL["load"], stream_id, event_id)
        version, snapshot, repeated = 0, None, None
        events: list[RecordedEvent] = []
        for row in rows:
            match row["kind"]:
                case "stream":
                    version = row["number"]
                    _refuse_deleted(stream_id, row["created_at"])
                case "snapshot":
                    snapshot = Snapshot(row["stream_uuid"], row["number"], row["type"], row["data"], row["metadata"])
                case "repeated":
                    repeated = _recorded(row)
                case _:
                    events.append(_recorded(row))
        return History(version, snapshot, events, repeated)

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        statement = _SQL["read_backward" if backwards else "read_forward"]
        rows = await self._pool.fetch(statement, stream_id, after, limit)
        if not rows:
            await self.stream_version(stream_id)
        return [_recorded(row) for row in rows]

    async def read_all(
        self, *, after: int = 0, limit: int = 1000, types: Sequence[str] | None = None
    ) -> list[RecordedEvent]:
        if types is None:
            rows = await self._pool.fetch(_SQL["read_all"], after, limit)
        else:
            rows = await self._pool.fetch(_SQL["read_all_of_types"], after, limit, list(types))
        return [_recorded(row) for row in rows]

    async def stream_version(self, stream_id: str) -> int:
        row = await self._pool.fetchrow(_SQL["stream"], stream_id)
        if row is None:
            return 0
        _refuse_deleted(stream_id, row["deleted_at"])
        return row["stream_version"]

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        await self._pool.execute(
            _SQL["record_snapshot"],
            snapshot.source_id,
            snapshot.source_version,
            snapshot.source_type,
            snapshot.data,
            snapshot.metadata,
        )

    async def reserve(self, claim: Claim, command_id: UUID, *, lease_seconds: float) -> ReserveOutcome:
        lease = timedelta(seconds=lease_seconds)
        return await self._pool.fetchval(_SQL["reserve"], claim.kind, claim.key, claim.owner, command_id, lease)

    async def release(self, claim: Claim, command_id: UUID) -> bool:
        found = await self._pool.fetchval(_SQL["release"], claim.kind, claim.key, claim.owner, command_id)
        return found is not None

    async def claim_owner(self, kind: str, key: str) -> UUID | None:
        return await self._pool.fetchval(_SQL["claim_owner"], kind, key)

    async def recall(self, command_id: UUID, event_id: UUID) -> Recollection:
        async with self._pool.acquire() as connection:
            event = await connection.fetchrow(_SQL["event_by_id"], event_id)
            answer = await connection.fetchrow(_SQL["answer"], command_id)
        return Recollection(
            event=_recorded(event) if event else None, answer=Answer(*answer.values()) if answer else None
        )

    async def remember(self, answer: Answer) -> Answer:
        async with self._pool.acquire() as connection:
            await connection.execute(_SQL["remember"], answer.command_id, answer.fingerprint, answer.outcome)
            kept = await connection.fetchrow(_SQL["answer"], answer.command_id)
        assert kept is not None, "an answer is never removed"
        return Answer(*kept.values())

    async def blocked_products(self, among: Sequence[UUID] | None = None) -> list[BlockedProduct]:
        rows = await self._pool.fetch(_SQL["blocked_products"], among)
        return [BlockedProduct(*row.values()) for row in rows]

    async def block_product(self, product_id: UUID) -> bool:
        return await self._pool.fetchval(_SQL["block_product"], product_id) is not None

    async def unblock_product(self, product_id: UUID) -> bool:
        return await self._pool.fetchval(_SQL["unblock_product"], product_id) is not None

    async def ping(self) -> None:
        """Raises if the database can't be asked."""
        await self._pool.fetchval(_SQL["stream"], ALL_STREAM)


def _refuse_deleted(stream_id: str, deleted_at: object) -> None:
    if deleted_at is not None:
        raise StreamDeleted(f"stream {stream_id} was deleted")


def _recorded(row: Any) -> RecordedEvent:
    return RecordedEvent(
        event_id=row["event_id"],
        number=row["number"],
        position=row["position"],
        stream_id=row["stream_uuid"],
        version=row["version"],
        type=row["type"],
        data=row["data"],
        metadata=row["metadata"],
        causation_id=row["causation_id"],
        correlation_id=row["correlation_id"],
        created_at=row["created_at"],
    )
