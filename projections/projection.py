"""What a read model declares: the events that it is made of, and how a batch of them changes its tables."""

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as QuickUUID  # noqa: N811 - it is a class

from domain.aggregates import TYPE_OF_EVENT, Event
from eventstore.codec import UPCASTERS, UndecodableEvent, decode, known_types
from eventstore.store import RecordedEvent, Strangers

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]


@dataclass(frozen=True, slots=True)
class Happened:
    """An event, and what a read model wants to know besides."""

    aggregate_id: UUID
    """The stream that it was appended to. Adopted events may name another id in their data: the stream counts."""
    version: int
    position: int
    at: datetime
    event_id: UUID
    event: Event


_MANY_ROWS = 50
_CREATE_TABLE = re.compile(r"^create table (\w+)", re.MULTILINE)


def _nothing_else(_happened: Happened) -> Collection[str]:
    return ()


@dataclass(frozen=True)
class Projection:
    """A read model. It is one file (and its .sql) that ends in one of these, and an entry in registry.py."""

    name: str
    version: int
    """Changes when the same events would make other rows, or the tables are others: they are built anew then."""
    tables: str
    """Creates its tables, with a primary key each; names without a schema, for there may be several builds of them."""
    events: tuple[type[Event], ...]
    apply: Callable[["Connection", Sequence[Happened]], Awaitable[None]]
    """Change the tables by a batch of events, in order. It runs in a transaction that also moves the checkpoint, so no
    event comes twice; and in few statements per batch, none per event."""
    depends_on: Callable[[Happened], Collection[str]] = _nothing_else
    """The streams, besides its own, without whose earlier events this one can't be applied. If one of them is held up
    by an event that couldn't be applied, this one waits behind it."""

    @property
    def table_names(self) -> Sequence[str]:
        return _CREATE_TABLE.findall(self.tables)

    @property
    def types(self) -> Sequence[str]:
        """The stored event types to read: its own, and those of older shape that may turn out to be its own."""
        return sorted({*(TYPE_OF_EVENT[event] for event in self.events), *UPCASTERS})

    @property
    def strangers(self) -> Strangers:
        """Of what other types events may be that are part of what it shows: nobody knows what they mean to it."""
        categories = {TYPE_OF_EVENT[event].partition(".")[0] for event in self.events}
        return Strangers(known_types(), sorted(categories))

    def understand(self, recorded: RecordedEvent) -> Sequence[Happened]:
        """What the recorded event means to this read model. Raises UndecodableEvent."""
        return [
            Happened(
                aggregate_id=_aggregate_id(recorded),
                version=recorded.version,
                position=recorded.position,
                at=recorded.created_at,
                event_id=recorded.event_id,
                event=event,
            )
            for event in decode(recorded)
            if isinstance(event, self.events)
        ]


def columns(rows: Sequence[Any], names: Iterable[str]) -> list[list[Any]]:
    """The rows' fields `names` as one list each: what a statement with unnest() takes."""
    return [[getattr(row, name) for row in rows] for name in names]


async def insert(connection: "Connection", table: str, rows: Sequence[Any], statement: str) -> None:
    """Put rows into a table that has none of them yet: each an object whose slots are the columns.

    `statement` inserts them from unnest(). COPY is quicker for many rows, but costs a round trip more.
    """
    if not rows:
        return
    names: Sequence[str] = rows[0].__slots__
    if len(rows) < _MANY_ROWS:
        await connection.execute(statement, *columns(rows, names))
    else:
        await connection.copy_records_to_table(table, records=map(attrgetter(*names), rows), columns=names)


def _aggregate_id(recorded: RecordedEvent) -> UUID:
    try:
        # Adopted streams may be named in any form of a UUID, in capitals for example. asyncpg's own reads most of them,
        # and in a tenth of the time.
        return QuickUUID(recorded.stream_id)
    except ValueError:
        pass
    try:
        return UUID(recorded.stream_id)
    except ValueError:
        raise UndecodableEvent(recorded, "its stream's name is no UUID") from None
