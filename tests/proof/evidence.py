"""What is there in the end, looked up from outside: by SQL, over HTTP, and at Temporal. No code of Waybill's."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import httpx2
import orjson
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import WorkflowTaskFailedEventAttributes
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from support import eventually

TOO_SLOW = "TMPRL1101"
"""The SDK's verdict on a workflow task that takes two seconds of the clock: code that blocks, or no CPU."""

_SUBSCRIBED = ("stream_linker", "shipment")


@dataclass(slots=True)
class Event:
    """A row of `$all`, in its own stream."""

    position: int
    stream: str
    version: int
    id: UUID
    type: str
    data: dict[str, Any]
    metadata: dict[str, Any]
    causation_id: UUID | None
    correlation_id: UUID | None
    created_at: datetime


@dataclass(slots=True)
class Run:
    """One run of an order's workflow."""

    workflow_id: str
    status: str
    """RUNNING, COMPLETED, FAILED, ..."""
    stuck: bool = False
    """A worker owes it something, and doesn't do it."""
    failures: Sequence[str] = ()
    """Why workflow tasks of it have failed: Temporal's names, or TOO_SLOW."""


if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Rows = Mapping[UUID, Mapping[str, Any]]


@dataclass
class Evidence:
    events: list[Event] = field(default_factory=list[Event])
    """Everything in `$all`, by position."""
    heads: dict[str, int] = field(default_factory=dict[str, int])
    """What each stream, and `$all`, says that it has come to."""
    versions: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """The numbers that there are in each stream, links too."""
    numbers: dict[str, UUID] = field(default_factory=dict[str, UUID])
    """Order numbers and the orders that have them, by the confirmed claims."""
    blocked: set[UUID] = field(default_factory=set[UUID])
    orders: Rows = field(default_factory=dict[UUID, Any])
    items: Rows = field(default_factory=dict[UUID, Any])
    shipments: Rows = field(default_factory=dict[UUID, Any])
    listed: dict[UUID, tuple[str, int]] = field(default_factory=dict[UUID, tuple[str, int]])
    """Status and version of each order, by the gateway's list."""
    checkpoints: dict[str, int] = field(default_factory=dict[str, int])
    """Where projections and handlers have come to."""
    parked: int = 0
    runs: list[Run] = field(default_factory=list[Run])


async def gather(events: "Connection", reads: "Connection") -> Evidence:
    """What the two databases hold, when nobody writes any more."""
    found = Evidence()
    await _events(events, found)
    await _rows(reads, found)
    for connection in (events, reads):
        found.parked += await connection.fetchval("select count(*) from waybill.parked")
    return found


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator["Connection"]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def behind(event_store_url: str, read_store_url: str) -> list[str]:
    """Projections and handlers that have not come to the end of `$all`."""
    async with connected(event_store_url) as events, connected(read_store_url) as reads:
        head = await events.fetchval("select stream_version from streams where stream_id = 0")
        found = await _checkpoints(events) | await _reached(reads)
    return [f"{name}: {position} of {head}" for name, position in found.items() if position < head]


async def _events(connection: "Connection", found: Evidence) -> None:
    rows = await connection.fetch("""
        select whole.stream_version, stream_uuid, whole.original_stream_version, event_id, event_type, data, metadata,
          causation_id, correlation_id, events.created_at
        from stream_events as whole
        join events using (event_id)
        join streams on streams.stream_id = whole.original_stream_id
        where whole.stream_id = 0
        order by whole.stream_version
    """)
    for position, stream, version, event_id, kind, data, metadata, *rest in rows:
        event = Event(position, stream, version, event_id, kind, orjson.loads(data), orjson.loads(metadata), *rest)
        found.events.append(event)
    found.heads = await _pairs(connection, "select stream_uuid, stream_version from streams")
    found.versions = await _pairs(
        connection,
        """
        select stream_uuid, array_agg(stream_events.stream_version order by stream_events.stream_version)
        from stream_events join streams using (stream_id)
        group by stream_uuid
        """,
    )
    found.numbers = await _pairs(
        connection, "select key, owner from waybill.claims where kind = 'order_number' and lease_until is null"
    )
    found.blocked = {row["product_id"] for row in await connection.fetch("select * from waybill.blocked_products")}
    found.checkpoints |= await _checkpoints(connection)


async def _checkpoints(connection: "Connection") -> dict[str, int]:
    seen = await _pairs(
        connection, "select subscription_name, coalesce(last_seen, 0) from subscriptions where stream_uuid = '$all'"
    )
    return dict.fromkeys(_SUBSCRIBED, 0) | seen


async def _rows(connection: "Connection", found: Evidence) -> None:
    for table in ("orders", "items", "shipments"):
        name = "order_items" if table == "items" else table
        rows = await connection.fetch(f"select * from {name}")
        setattr(found, table, {row["id"]: dict(row) for row in rows})
    found.checkpoints |= await _reached(connection)


async def _reached(connection: "Connection") -> dict[str, int]:
    return await _pairs(
        connection,
        """
        select projection_name, last_seen_event_number
        from projection_versions join waybill.projections using (projection_name)
        where stage = 'live'
        """,
    )


async def _pairs(connection: "Connection", statement: str) -> dict[str, Any]:
    return {row[0]: row[1] for row in await connection.fetch(statement)}


async def listed(http: httpx2.AsyncClient) -> dict[UUID, tuple[str, int]]:
    """Every order, page by page."""
    found: dict[UUID, tuple[str, int]] = {}
    after: str | None = None
    while True:
        answer = await http.get("/orders", params={"limit": 200, **({"after": after} if after else {})})
        page = answer.raise_for_status().json()
        found |= {UUID(order["id"]): (order["status"], order["version"]) for order in page["items"]}
        after = page["next"]
        if after is None:
            return found


async def runs(temporal: Client, orders: int, within: float) -> list[Run]:
    """Every run of every order. Temporal's list may lag behind: it is waited for until it has so many orders.

    A run that is owed something for longer than `within` seconds is stuck.
    """
    executions: list[WorkflowExecution] = []

    async def are_listed() -> bool:
        executions[:] = [execution async for execution in temporal.list_workflows("WorkflowType = 'Order'")]
        return len({execution.id for execution in executions}) >= orders

    # Which order has none is said by the checks.
    with suppress(AssertionError):
        await eventually(are_listed, within=within, every=0.5)
    busy = asyncio.Semaphore(16)

    async def look(execution: WorkflowExecution) -> Run:
        async with busy:
            return await _run(temporal, execution, within)

    return await asyncio.gather(*map(look, executions))


async def _run(temporal: Client, execution: WorkflowExecution, within: float) -> Run:
    handle = temporal.get_workflow_handle(execution.id, run_id=execution.run_id)
    failures = tuple(
        [
            _why(event.workflow_task_failed_event_attributes)
            async for event in handle.fetch_history_events()
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED
        ]
    )
    status = execution.status or WorkflowExecutionStatus.RUNNING
    return Run(execution.id, status.name, await _is_stuck(temporal, execution, within), failures)


def _why(failed: WorkflowTaskFailedEventAttributes) -> str:
    return TOO_SLOW if f"[{TOO_SLOW}]" in failed.failure.message else WorkflowTaskFailedCause.Name(failed.cause)


async def _is_stuck(temporal: Client, execution: WorkflowExecution, within: float) -> bool:
    """Whether a worker owes it something for long. A moment is nothing: its idle time may just be over."""
    request = DescribeWorkflowExecutionRequest(namespace=temporal.namespace)
    request.execution.workflow_id, request.execution.run_id = execution.id, execution.run_id

    async def owes_nothing() -> bool:
        described = await temporal.workflow_service.describe_workflow_execution(request)
        return not described.HasField("pending_workflow_task")

    if execution.status != WorkflowExecutionStatus.RUNNING:
        return False
    try:
        return not await eventually(owes_nothing, within=within, every=0.5)
    except AssertionError:
        return True
