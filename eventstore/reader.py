"""Reads events and streams from PostgreSQL, over a pool or over one connection.

Every method is one round trip; an empty page of a stream costs another, to tell one that was deleted.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from eventstore.statements import load_statements
from eventstore.store import (
    ALL_STREAM,
    LAST,
    History,
    RecordedEvent,
    Snapshot,
    Strangers,
    StreamDeleted,
    StreamInfo,
)

if TYPE_CHECKING:
    from eventstore.pool import Connection, Pool
    from eventstore.subscriptions import Session

SQL = load_statements("eventstore", "store.sql")

BY_KEY = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
    "max_parallel_workers_per_gather": "0",
}
"""For the connections that these statements run on: every look-up is by key. A plan made while a table was small must
not scan it when it has grown, and streams that are long on average are no reason to go through all events. One plan
fits all values. And no page is worth the workers that the planner would start for it: it is read in less time."""


class Reader:
    """The reading half of an EventStore (see store.py)."""

    def __init__(self, source: "Pool | Connection | Session") -> None:
        self._source = source

    async def load(self, stream_id: str, event_id: UUID | None = None) -> History:
        rows = await self._source.fetch(SQL["load"], stream_id, event_id)
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
                    repeated = RecordedEvent(*row[1:])
                case _:
                    events.append(RecordedEvent(*row[1:]))
        return History(version, snapshot, events, repeated)

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        if stream_id == ALL_STREAM and not backwards:
            return await self.read_all(after=after, limit=limit)
        statement = SQL["read_backward" if backwards else "read_forward"]
        rows = await self._source.fetch(statement, stream_id, after, limit)
        if not rows:
            await self.stream_version(stream_id)
        return list(map(RecordedEvent._make, rows))

    async def read_all(
        self,
        *,
        after: int = 0,
        until: int = LAST,
        limit: int = 1000,
        types: Sequence[str] | None = None,
        strangers: Strangers | None = None,
    ) -> list[RecordedEvent]:
        if types is None:
            rows = await self._source.fetch(SQL["read_all"], after, until, limit)
        else:
            known, categories = strangers or Strangers((), ())
            wanted = (types, known, categories)
            rows = await self._source.fetch(SQL["read_all_of_types"], after, until, limit, *wanted)
        return list(map(RecordedEvent._make, rows))

    async def find_events(self, event_ids: Sequence[UUID]) -> list[RecordedEvent]:
        return [RecordedEvent(*row) for row in await self._source.fetch(SQL["events_by_id"], event_ids)]

    async def stream_version(self, stream_id: str) -> int:
        stream = await self.stream_info(stream_id)
        if stream is None:
            return 0
        _refuse_deleted(stream_id, stream.deleted_at)
        return stream.version

    async def stream_info(self, stream_id: str) -> StreamInfo | None:
        row = await self._source.fetchrow(SQL["stream"], stream_id)
        return StreamInfo(*row) if row else None

    async def list_streams(self, *, after: int = 0, limit: int = 1000) -> list[StreamInfo]:
        return [StreamInfo(*row) for row in await self._source.fetch(SQL["list_streams"], after, limit)]


def _refuse_deleted(stream_id: str, deleted_at: object) -> None:
    if deleted_at is not None:
        raise StreamDeleted(stream_id)
