"""The event store of a database that may have been adopted: some of its streams may be named in a way of their own."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Self
from uuid import UUID

from eventstore.postgres import PostgresStore
from eventstore.statements import load_statements
from eventstore.store import (
    ALL_STREAM,
    Append,
    Appended,
    ExpectedVersion,
    History,
    KeptProducts,
    Linked,
    RecordedEvent,
    Snapshot,
    Start,
    StreamInfo,
)
from eventstore.subscriptions import SessionSubscription

_SQL = load_statements("eventstore", "adopt.sql")


class AdoptedStore(PostgresStore):
    """Finds an order or a shipment by its id also where the stream's name is that id in capitals, or without hyphens.

    Such names were noted when the database was adopted; there are never new ones.
    """

    names: Mapping[str, str] = {}
    """Stream names by the id's usual form."""
    reported: AbstractSet[str] = frozenset()
    """What can't be read, as was found when the database was adopted: ids of events, names of streams, types."""

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, pool_size: int = 10) -> AsyncGenerator[Self]:
        async with super().open(url, pool_size) as store:
            await store.learn()
            yield store

    async def learn(self) -> None:
        rows = await self._pool.fetch(_SQL["stream_names"])
        self.names = {str(row["id"]): row["stream_uuid"] for row in rows}
        self.reported = {row["subject"] for row in await self._pool.fetch(_SQL["reported"])}

    def was_reported(self, event: RecordedEvent) -> bool:
        """Whether it was said at adoption that the event can't be read."""
        return not self.reported.isdisjoint((str(event.event_id), event.stream_id, event.type))

    async def append(self, append: Append) -> Appended:
        return await super().append(replace(append, stream_id=self._name(append.stream_id)))

    async def load(self, stream_id: str, event_id: UUID | None = None) -> History:
        return await super().load(self._name(stream_id), event_id)

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        return await super().read_stream(self._name(stream_id), after=after, limit=limit, backwards=backwards)

    async def stream_info(self, stream_id: str) -> StreamInfo | None:
        return await super().stream_info(self._name(stream_id))

    async def link(self, stream_id: str, event_ids: Sequence[UUID], *, expected: ExpectedVersion = "any") -> Linked:
        return await super().link(self._name(stream_id), event_ids, expected=expected)

    async def delete_stream(self, stream_id: str, *, expected: ExpectedVersion = "any", hard: bool = False) -> None:
        await super().delete_stream(self._name(stream_id), expected=expected, hard=hard)

    def subscribe(
        self, name: str, *, stream_id: str = ALL_STREAM, start: Start = "origin", batch: int = 1000
    ) -> AbstractAsyncContextManager[SessionSubscription]:
        return super().subscribe(name, stream_id=self._name(stream_id), start=start, batch=batch)

    async def record_snapshot(self, snapshot: Snapshot) -> None:
        await super().record_snapshot(replace(snapshot, source_id=self._name(snapshot.source_id)))

    async def kept_products(self, stream_id: str) -> KeptProducts:
        return await super().kept_products(self._name(stream_id))

    async def keep_products(self, stream_id: str, products: Sequence[UUID], *, seen: int, version: int) -> None:
        await super().keep_products(self._name(stream_id), products, seen=seen, version=version)

    def _name(self, stream_id: str) -> str:
        return self.names.get(stream_id, stream_id)
