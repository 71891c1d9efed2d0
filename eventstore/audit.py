"""Looks over all that an event store holds, in the transaction that a connection is in.

Streams are read in pages and walked through, so that more events take more time but no more memory. What has to be
asked of all of them together is asked in SQL, of temporary tables that the walk fills.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from eventstore.findings import Finding
from eventstore.statements import load_statements
from eventstore.store import RecordedEvent, Snapshot
from eventstore.walk import Walk

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

Progress = Callable[[int, int], None]
"""Takes how many of how many events have been looked at."""

_SQL = load_statements("eventstore", "verify.sql")
_PAGE = 2000
_KEYS = {"order_number": "order number", "shipment": "the shipment of order"}


@dataclass(frozen=True, slots=True)
class Unshipped:
    """A completed order without a shipment."""

    order_id: UUID
    position: int
    completed_at: datetime
    young: bool
    """It was completed a moment ago: its shipment may be coming."""

    def as_finding(self) -> Finding:
        text = f"order {self.order_id} (position {self.position}), completed at {self.completed_at:%Y-%m-%d %H:%M:%S}"
        return Finding("no-shipment", str(self.order_id), text)


@dataclass
class Audit:
    """What an event store holds, and what is odd about it."""

    events: int
    streams: int
    links: int
    snapshots: int
    orders: dict[str, int] = field(default_factory=dict)
    shipments: dict[str, int] = field(default_factory=dict)
    """How many there are of each status."""
    unknown_types: dict[str, int] = field(default_factory=dict)
    """Events of types that nobody here knows: they are carried along."""
    findings: list[Finding] = field(default_factory=list)
    unshipped: Sequence[Unshipped] = ()


async def audit(connection: "Connection", progress: Progress) -> Audit:
    """Everything but the claims. It leaves temporary tables for `claims_at_fault` to the rest of the transaction."""
    counts = await connection.fetchrow(_SQL["counts"])
    assert counts is not None
    found = Audit(*counts.values(), findings=await _sequences_at_fault(connection))
    await connection.execute(_SQL["prepare"])
    walk = await _walk(connection, progress, found.events)
    found.unknown_types = dict(walk.unknown_types)
    found.findings += walk.findings
    for row in await connection.fetch(_SQL["statuses"]):
        (found.orders if row["what"] == "orders" else found.shipments)[row["status"]] = row["count"]
    found.findings += await _shipments_at_fault(connection)
    found.unshipped = [Unshipped(*row.values()) for row in await connection.fetch(_SQL["unshipped"])]
    return found


async def claims_at_fault(connection: "Connection") -> list[Finding]:
    """Claims without an owner, and owners without their claim. After `audit`, in the same transaction."""
    findings: list[Finding] = []
    for row in await connection.fetch(_SQL["idle_claims"]):
        text = f"{_KEYS[row['kind']]} {row['key']!r} is claimed by {row['owner']}"
        findings.append(Finding("idle-claim", f"{row['kind']} {row['key']}", text))
    for row in await connection.fetch(_SQL["unclaimed_numbers"]):
        number = f"order {row['id']} (position {row['position']}): {row['number']!r}"
        if row["holder"]:
            text = f"{number} belongs to order {row['holder']} (position {row['holder_position']})"
            findings.append(Finding("number-taken-twice", str(row["id"]), text))
        else:
            findings.append(Finding("missing-claim", str(row["id"]), f"{number} is not claimed"))
    for row in await connection.fetch(_SQL["unclaimed_shipments"]):
        text = f"order {row['order_id']}: its shipment {row['id']} (position {row['position']}) is not claimed"
        findings.append(Finding("missing-claim", str(row["id"]), text))
    return findings


async def _sequences_at_fault(connection: "Connection") -> list[Finding]:
    findings: list[Finding] = []
    for row in await connection.fetch(_SQL["holes"]):
        stream, first, last = row["stream_uuid"], row["first"], row["last"]
        text = f"{first} to {last}" if first < last else f"{first}"
        text = f"{stream} says that it ends at {last}, and goes on" if first > last else f"{stream}: {text}"
        findings.append(Finding("hole", f"{stream} {first}-{last}", text))
    for row in await connection.fetch(_SQL["misplaced"]):
        text = f"{row['event_type']} {row['event_id']} isn't at one place in a stream and one in $all"
        findings.append(Finding("misplaced-event", str(row["event_id"]), text))
    for row in await connection.fetch(_SQL["closed_streams"]):
        text = f"{row['stream_uuid']}, at {row['deleted_at']:%Y-%m-%d %H:%M:%S}"
        findings.append(Finding("closed-stream", row["stream_uuid"], text))
    for row in await connection.fetch(_SQL["stray_snapshots"]):
        text = f"{row['source_uuid']}, version {row['source_version']}: the stream is at {row['stream_version']}"
        findings.append(Finding("useless-snapshot", row["source_uuid"], text))
    return findings


async def _walk(connection: "Connection", progress: Progress, events: int) -> Walk:
    walk, seen, last = Walk(), 0, (0, 2**63 - 1)
    await connection.execute(_SQL["walk"])
    while page := await connection.fetch(_SQL["page"], *last, _PAGE):
        for row in page:
            walk.see(*_event(row))
        last, seen = (page[-1]["stream_id"], page[-1]["version"]), seen + len(page)
        await _save(connection, walk)
        progress(seen, events)
    walk.leave()
    await _save(connection, walk)
    await connection.execute(_SQL["walked"])
    return walk


async def _save(connection: "Connection", walk: Walk) -> None:
    for table, rows in ("audited_orders", walk.orders), ("audited_shipments", walk.shipments):
        if rows:
            await connection.copy_records_to_table(table, records=rows)
            rows.clear()


async def _shipments_at_fault(connection: "Connection") -> list[Finding]:
    findings = [
        Finding("same-id", str(row["id"]), f"{row['id']}: {', '.join(row['streams'])}")
        for row in await connection.fetch(_SQL["namesakes"])
    ]
    for row in await connection.fetch(_SQL["shipments_astray"]):
        text = f"order {row['order_id']}: {row['id']} (position {row['position']})"
        if row["first"]:
            findings.append(Finding("several-shipments", str(row["id"]), f"{text} besides {row['first']}"))
        else:
            state = f"is {row['order_status']}" if row["order_status"] else "never existed"
            findings.append(Finding("astray-shipment", str(row["id"]), f"{text}; the order {state}"))
    return findings


def _event(row: Any) -> tuple[RecordedEvent, Snapshot | None]:
    recorded = RecordedEvent(
        event_id=row["event_id"],
        number=row["version"],
        position=row["position"],
        stream_id=row["stream_uuid"],
        version=row["version"],
        type=row["type"],
        data=row["data"],
        metadata=None,
        causation_id=None,
        correlation_id=None,
        created_at=row["created_at"],
    )
    if row["source_type"] is None:
        return recorded, None
    return recorded, Snapshot(
        recorded.stream_id, recorded.version, row["source_type"], row["snapshot"], row["snapshot_metadata"]
    )
