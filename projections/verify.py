"""The read models' part of `waybill verify`: every row is what the events make of it.

The projections are run once more, into temporary tables that stand where the real ones are, up to where each of them
has come; then the tables are compared. It is all in one transaction of the read store, which may be in use.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from eventstore.codec import UndecodableEvent
from eventstore.findings import Finding
from eventstore.statements import load_statements
from eventstore.store import ALL_STREAM, EventStore, RecordedEvent
from projections.projection import Happened, Projection
from projections.registry import PROJECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.projection import Connection

TABLES: Mapping[str, tuple[str, ...]] = {"orders": ("orders", "order_items"), "shipments": ("shipments",)}
"""The tables of each projection."""

_SQL = load_statements("projections", "verify.sql")
_PAGE = 2000
# Rows to name of one table: who has more wrong ones wants a rebuild, not a list.
_NAMED = 100


async def verify(url: str, store: EventStore, progress: "Callable[[str, int, int], None]") -> list[Finding]:
    """What is wrong with the read models. `progress` takes a projection, how far it is, and how far it has to go."""
    connection: Connection = await asyncpg.connect(url, server_settings={"application_name": "waybill", "jit": "off"})
    try:
        async with connection.transaction(isolation="repeatable_read"):
            rows = await connection.fetch(_SQL["checkpoints"])
            checkpoints = {row["projection_name"]: row["last_seen_event_number"] for row in rows}
            await connection.execute(_SQL["shadow"])
            findings: list[Finding] = []
            for projection in PROJECTIONS:
                checkpoint = checkpoints.get(projection.name, 0)
                findings += await _ahead(projection, store, checkpoint)
                await _project(projection, connection, store, checkpoint, progress)
                findings += await _compare(projection, connection)
            return findings
    finally:
        await connection.close()


async def _ahead(projection: Projection, store: EventStore, checkpoint: int) -> list[Finding]:
    head = await store.stream_version(ALL_STREAM)
    if checkpoint <= head:
        return []
    return [Finding("projection-ahead", projection.name, f"{projection.name} is at {checkpoint} of {head}")]


async def _project(
    projection: Projection,
    connection: "Connection",
    store: EventStore,
    checkpoint: int,
    progress: "Callable[[str, int, int], None]",
) -> None:
    after = 0
    while after < checkpoint:
        page = await store.read_all(after=after, limit=_PAGE, types=projection.types)
        seen = [recorded for recorded in page if recorded.position <= checkpoint]
        if seen:
            await projection.apply(connection, list(_understood(projection, seen)))
        after = page[-1].position if len(page) == _PAGE else checkpoint
        progress(projection.name, min(after, checkpoint), checkpoint)


def _understood(projection: Projection, events: Iterable[RecordedEvent]) -> Iterable[Happened]:
    for recorded in events:
        try:
            yield from projection.understand(recorded)
        except UndecodableEvent:
            continue  # The projection left it out as well; the event store's part reports it.


async def _compare(projection: Projection, connection: "Connection") -> list[Finding]:
    findings: list[Finding] = []
    for table in TABLES[projection.name]:
        rows = await connection.fetch(_SQL[table], _NAMED)
        findings += [_difference(table, row) for row in rows]
        if rows and (more := rows[0]["total"] - len(rows)):
            findings.append(Finding("wrong-row", table, f"{table}: {more} more rows differ"))
    return findings


def _difference(table: str, row: Any) -> Finding:
    subject = f"{table} {row['id']}"
    if row["shown"] is None:
        return Finding("missing-row", subject, subject)
    if row["folded"] is None:
        return Finding("surplus-row", subject, subject)
    shown, folded = orjson.loads(row["shown"]), orjson.loads(row["folded"])
    fields = [f"{name} is {shown[name]}, not {folded[name]}" for name in folded if shown[name] != folded[name]]
    return Finding("wrong-row", subject, f"{subject}: {'; '.join(fields)}")
