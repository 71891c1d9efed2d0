"""Takes over a database that another program has filled: `waybill adopt`.

Everything that is added is in schema waybill; schema public stays as it is, to the last bit. What is odd about the
history is told and kept, so that it is told once.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import orjson

from eventstore.audit import Progress, audit, claims_at_fault
from eventstore.migrate import LAYOUT, apply_pending, holds_foreign_events, migrating, migrations, record
from eventstore.roles import grant_roles
from eventstore.statements import load_statements

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

_SQL = load_statements("eventstore", "adopt.sql")
_TABLES = ("streams", "events", "stream_events", "subscriptions", "snapshots", "schema_migrations")
# Our own tables are made here to be compared with, and unmade at once.
_REFERENCE = "waybill_reference"


class NotAdoptable(Exception):
    """There is nothing in this database that can be adopted."""

    def __init__(self, why: str, differences: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.differences = differences


@dataclass(frozen=True)
class Adoption:
    """What became of it, and what was found."""

    outcome: Literal["adopted", "adopted before", "could be adopted"]
    report: dict[str, Any]


class _DryRun(Exception):
    """Nothing is to be changed."""


async def adopt(url: str, progress: Progress, *, dry_run: bool = False) -> Adoption:
    """Adopt the database in one transaction, or tell what was found when it was. Raises NotAdoptable.

    While it looks the database over, nobody appends.
    """
    report: dict[str, Any] = {}
    with suppress(_DryRun):
        async with migrating(url) as connection:
            if not await holds_foreign_events(connection):
                return await _adopted_before(connection)
            await _require_layout(connection)
            await record(connection, LAYOUT)
            await apply_pending(connection, "eventstore")
            await connection.execute(_SQL["hold_still"])
            report = await _take_over(connection, progress)
            await grant_roles(connection)
            if dry_run:
                raise _DryRun
    return Adoption("could be adopted" if dry_run else "adopted", report)


async def _adopted_before(connection: "Connection") -> Adoption:
    if not await connection.fetchval("select to_regclass('waybill.adoption') is not null"):
        raise NotAdoptable("there is no event store in schema public: `waybill migrate` makes one")
    row = await connection.fetchrow(_SQL["adoption"])
    if row is None:
        raise NotAdoptable("Waybill has made this event store itself: there is nothing to adopt")
    return Adoption(
        "adopted before", orjson.loads(row["report"]) | {"adopted_at": row["adopted_at"].isoformat(timespec="seconds")}
    )


async def _require_layout(connection: "Connection") -> None:
    """Schema public must have exactly what our own first migration makes."""
    attempt = connection.transaction()
    await attempt.start()
    try:
        await connection.execute(f"create schema {_REFERENCE}")
        await connection.execute(migrations("eventstore")[LAYOUT].replace("public.", f"{_REFERENCE}."))
        # Then every name is told with its schema.
        await connection.execute("set local search_path = pg_catalog")
        wanted = {line.replace(f"{_REFERENCE}.", "public.") for line in await _layout(connection, _REFERENCE)}
        there = await _layout(connection, "public")
    finally:
        await attempt.rollback()
    differences = [f"missing: {line}" for line in sorted(wanted - there)]
    differences += [f"not of the layout: {line}" for line in sorted(there - wanted)]
    if not differences:
        differences = [row["line"] for row in await connection.fetch(_SQL["faults"])]
    if differences:
        raise NotAdoptable("schema public is not the layout of EventStore 1.3.2 with bytea payloads", differences)


async def _layout(connection: "Connection", schema: str) -> set[str]:
    return {row["line"] for row in await connection.fetch(_SQL["layout"], schema, _TABLES)}


async def _take_over(connection: "Connection", progress: Progress) -> dict[str, Any]:
    found = await audit(connection, progress)
    for statement in ("claim_numbers", "claim_shipments", "name_streams"):
        await connection.execute(_SQL[statement])
    findings = [
        *found.findings,
        *await claims_at_fault(connection),
        *(unshipped.as_finding() for unshipped in found.unshipped),
    ]
    report = {
        "events": found.events,
        "streams": found.streams,
        "links": found.links,
        "snapshots": found.snapshots,
        "orders": found.orders,
        "shipments": found.shipments,
        "claims": await connection.fetchval(_SQL["claims"]),
        "subscriptions": [dict(row) for row in await connection.fetch(_SQL["subscriptions"])],
        "unknown_types": found.unknown_types,
        "findings": [asdict(finding) for finding in findings],
    }
    adopted_at = await connection.fetchval(_SQL["record"], orjson.dumps(report).decode())
    return report | {"adopted_at": adopted_at.isoformat(timespec="seconds")}
