"""The read models' part of `waybill verify`: every row is what the events make of it, and none of them is parked.

The projections are run once more, into temporary tables that stand where the real ones are, up to where each of them
has come; then the tables are compared. It is all in one transaction of the read store, which may be in use.
"""

from collections.abc import Collection, Iterable, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from eventstore.batches import in_ranges
from eventstore.codec import UndecodableEvent
from eventstore.findings import Finding
from eventstore.statements import load_statements
from eventstore.store import ALL_STREAM, EventStore, RecordedEvent
from projections import builds, parking
from projections.builds import Build, quoted
from projections.parking import Place
from projections.projection import Happened, Projection
from projections.registry import PROJECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from projections.projection import Connection

_SQL = load_statements("projections", "verify.sql")
_PAGE = 2000
# Rows to name of one table: who has more wrong ones wants a rebuild, not a list.
_NAMED = 100
_MOST_PARKED = 1_000_000


async def verify(
    url: str,
    store: EventStore,
    progress: "Callable[[str, int, int], None]",
    projections: Sequence[Projection] = PROJECTIONS,
) -> list[Finding]:
    """What is wrong with the rows of these versions of the projections.

    `progress` takes a projection, how far it is, and how far it has to go.
    """
    looked_up = builds.search_path(projections)
    settings = {"application_name": "waybill", "jit": "off", "search_path": looked_up}
    connection: Connection = await asyncpg.connect(url, server_settings=settings)
    try:
        async with connection.transaction(isolation="repeatable_read"):
            for projection in projections:
                await _hold(connection, projection)
            findings: list[Finding] = []
            for projection in projections:
                build = await builds.serving(connection, projection)
                if build is None:
                    text = f"{projection.name}: no rows of version {projection.version} yet"
                    findings.append(Finding("projection-missing", projection.name, text))
                else:
                    findings += await _verify(projection, build, connection, store, progress)
            return findings + await parked([connection])
    finally:
        await connection.close()


async def _hold(connection: "Connection", projection: Projection) -> None:
    """Keep another build from taking the rows' place meanwhile. It comes before anything is read: what is seen is of
    the moment of the first look, and what tables are called is of now.
    """
    # If there are no rows yet, that is told later.
    with suppress(asyncpg.UndefinedTableError):
        async with connection.transaction():
            tables = ", ".join(builds.quoted(table) for table in projection.table_names)
            await connection.execute(f"lock table {tables} in access share mode")


async def parked(places: Sequence[Place]) -> list[Finding]:
    """What the projections or the handlers that keep their parked events there have not been done with."""
    return [
        Finding(
            "parked-event",
            f"{each.subscriber} {each.event_id}",
            f"{each.subscriber}, position {each.position}, {each.event_type} in {each.stream_id}: "
            f"{each.state} {each.reason}".rstrip(),
        )
        for each in await parking.listed(places, limit=_MOST_PARKED)
        # What it is too early for is no fault: it is looked at again by itself.
        if each.state not in {"discarded", "waiting"}
    ]


async def _verify(
    projection: Projection,
    build: Build,
    connection: "Connection",
    store: EventStore,
    progress: "Callable[[str, int, int], None]",
) -> list[Finding]:
    checkpoint = await builds.position(connection, build.key)
    aside = {each.position for each in await parking.listed([connection], build.key, limit=_MOST_PARKED)}
    findings = await _ahead(projection, store, checkpoint)
    await builds.make_tables(connection, projection, "pg_temp")
    async with aclosing(in_ranges(store, until=checkpoint, size=_PAGE, types=projection.types)) as ranges:
        async for reached, page in ranges:
            if batch := list(_understood(projection, page, aside)):
                await projection.apply(connection, batch)
            progress(projection.name, reached, checkpoint)
    for table in projection.table_names:
        findings += await _compare(connection, build, table)
    return findings


async def _ahead(projection: Projection, store: EventStore, checkpoint: int) -> list[Finding]:
    head = await store.stream_version(ALL_STREAM)
    if checkpoint <= head:
        return []
    return [Finding("projection-ahead", projection.name, f"{projection.name} is at {checkpoint} of {head}")]


def _understood(projection: Projection, events: Iterable[RecordedEvent], aside: Collection[int]) -> Iterable[Happened]:
    for recorded in events:
        if recorded.position in aside:
            continue
        try:
            yield from projection.understand(recorded)
        except UndecodableEvent:
            continue  # The projection left it out as well; the event store's part reports it.


async def _compare(connection: "Connection", build: Build, table: str) -> list[Finding]:
    shown, folded = f"{quoted(build.schema)}.{quoted(table)}", f"pg_temp.{quoted(table)}"
    key = ", ".join(quoted(name) for name in await connection.fetchval(_SQL["primary_key"], folded))
    statement = _SQL["compare"].format(shown=shown, folded=folded, key=key)
    rows = await connection.fetch(statement, _NAMED)
    findings = [_difference(table, row) for row in rows]
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
