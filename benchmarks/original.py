"""Appends as Elixir's EventStore makes them: one statement each, whose stream versions the client has computed.

It locks nothing beforehand, and takes rows in the order in which its statement comes to them: at an exact version row
0 before the stream's, at any version after it. A version that is taken already shows as a unique violation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eventstore.store import NewEvent

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Source = asyncpg.Pool[asyncpg.Record] | asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

# The stream is made in the same statement when it is new, and grows by as many events as come otherwise.
_NEW_STREAM = "insert into public.streams (stream_uuid, stream_version) values ($1, $2::bigint)"
_KNOWN_STREAM = "update public.streams set stream_version = stream_version + $2::bigint where stream_id = $1"

_APPEND = """
with new_event as (
  select event_id, event_type, data, metadata, i
  from unnest($3::uuid[], $4::text[], $5::bytea[], $6::bytea[]) with ordinality
    as given (event_id, event_type, data, metadata, i)
), stored as (
  insert into public.events (event_id, event_type, data, metadata, created_at)
  select event_id, event_type, data, metadata, $7::timestamptz from new_event
), stream as (
  {stream}
  returning stream_id, stream_version - $2::bigint as before
), own as (
  insert into public.stream_events
    (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
  select event_id, stream_id, {version}, stream_id, {version} from new_event, stream
), head as (
  update public.streams set stream_version = stream_version + $2::bigint
  where stream_id = 0
  returning stream_version - $2::bigint as position
)"""
_EVERYWHERE = """
insert into public.stream_events (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
select event_id, 0, position + i, stream_id, {version} from new_event, head, stream
"""
_CREATE = (_APPEND + _EVERYWHERE).format(stream=_NEW_STREAM, version="i")
_AT_VERSION = (_APPEND + _EVERYWHERE).format(stream=_KNOWN_STREAM, version="$8::bigint + i")
_AT_ANY_VERSION = f"{_APPEND}, everywhere as ({_EVERYWHERE}) select before + 1 from stream".format(
    stream=_KNOWN_STREAM, version="before + i"
)


@dataclass(frozen=True)
class OriginalClient:
    """What raises, raises as it comes: asyncpg's UniqueViolationError is a conflict."""

    source: "Source"

    async def find(self, stream: str) -> tuple[int, int] | None:
        """The stream's number and version."""
        row = await self.source.fetchrow(
            "select stream_id, stream_version from public.streams where stream_uuid = $1", stream
        )
        return (row["stream_id"], row["stream_version"]) if row else None

    async def create(self, stream: str, events: Sequence[NewEvent]) -> None:
        """Append to a stream that doesn't exist yet."""
        await self.source.execute(_CREATE, stream, *_columns(events))

    async def append(self, number: int, events: Sequence[NewEvent], version: int) -> None:
        """Append to the stream of this number, which the client takes to be at `version`."""
        await self.source.execute(_AT_VERSION, number, *_columns(events), version)

    async def append_at_any_version(self, number: int, events: Sequence[NewEvent]) -> int:
        """Append to the stream of this number, at whatever version; gives the version of the first event."""
        return await self.source.fetchval(_AT_ANY_VERSION, number, *_columns(events))


def _columns(events: Sequence[NewEvent]) -> tuple[object, ...]:
    return (
        len(events),
        [event.event_id for event in events],
        [event.type for event in events],
        [event.data for event in events],
        [event.metadata for event in events],
        datetime.now(UTC),
    )
