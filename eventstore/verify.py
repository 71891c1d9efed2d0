"""The event store's part of `waybill verify`: an audit of a store that may be in use."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import asyncpg
import orjson

from domain.ids import shipment_id
from eventstore.audit import Audit, Progress, Unshipped, audit, claims_at_fault
from eventstore.findings import HARMLESS, Finding
from eventstore.statements import load_statements

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

_SQL = load_statements("eventstore", "verify.sql")
_SHIPMENT_MAY_TAKE = 5.0


async def verify(url: str, progress: Progress) -> tuple[Audit, int]:
    """What is wrong with the event store at one moment, and how much was known to be wrong when it was adopted."""
    connection: Connection = await asyncpg.connect(url, server_settings={"application_name": "waybill", "jit": "off"})
    try:
        async with connection.transaction(isolation="repeatable_read"):
            found = await audit(connection, progress)
            found.findings += await claims_at_fault(connection)
            known = await _known(connection)
        found.findings += await _unshipped(connection, found.unshipped)
    finally:
        await connection.close()
    wrong = [finding for finding in found.findings if finding.kind not in HARMLESS]
    found.findings = [finding for finding in wrong if (finding.kind, finding.subject) not in known]
    return found, len(wrong) - len(found.findings)


async def _known(connection: "Connection") -> set[tuple[str, str]]:
    """What was told when the database was adopted: history doesn't get better."""
    report = await connection.fetchval(_SQL["adoption"])
    return {(each["kind"], each["subject"]) for each in orjson.loads(report)["findings"]} if report else set()


async def _unshipped(connection: "Connection", unshipped: Sequence[Unshipped]) -> list[Finding]:
    """Those whose shipment doesn't come about within a while."""
    waiting = {each.order_id: each for each in unshipped if each.young}
    late = [each for each in unshipped if not each.young]
    deadline = asyncio.get_running_loop().time() + _SHIPMENT_MAY_TAKE
    while waiting:
        streams = [str(shipment_id(order_id)) for order_id in waiting]
        rows = await connection.fetch(_SQL["still_unshipped"], list(waiting), streams)
        waiting = {row["order_id"]: waiting[row["order_id"]] for row in rows}
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)
    return [each.as_finding() for each in (*late, *waiting.values())]
