"""What a run that has forgotten, or can't be sure, needs to know of its order: the truth is in the event store."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from uuid import UUID

import orjson
import structlog
from temporalio import activity

import tracing
from domain import order, shipment
from domain.aggregates import ORDER, SHIPMENT, TYPE_OF_EVENT
from domain.values import Value
from eventstore.batches import in_batches
from eventstore.claims import shipment_of
from eventstore.codec import UndecodableEvent
from eventstore.repository import load
from eventstore.store import EventStore, RecordedEvent, StreamDeleted

log = structlog.get_logger(__name__)


class Recalled(Value):
    """An order and its shipment, as far as there are any."""

    order_number: str | None = None
    business_partner: str | None = None
    status: str | None = None
    """OPEN, COMPLETED, DELETED, or SHIPPED once its shipment is completed; UNREADABLE if one of its events can't be
    read; None without an order."""
    version: int = 0
    owed: UUID | None = None
    """The OrderCompleted event whose shipment has not been created."""
    request_id: str = ""
    traceparent: str = ""
    """What that event's metadata say of the request that led to it."""


@dataclass(frozen=True)
class RecallOrder:
    store: EventStore

    @activity.defn(name="RecallOrder")
    async def run(self, order_id: UUID) -> Recalled:
        began = time.time_ns()
        try:
            recalled = await self._recall(order_id)
        except UndecodableEvent as undecodable:
            log.warning("order.unreadable", order_id=str(order_id), reason=str(undecodable))
            return Recalled(status="UNREADABLE")
        except StreamDeleted:
            return Recalled()
        # Nobody has asked for it: what it leads to, if it leads to something, belongs to who completed the order.
        about = {"waybill.outcome": "done"}
        tracing.following("RecallOrder", recalled.traceparent, at=began, attributes=about).end()
        return recalled

    async def _recall(self, order_id: UUID) -> Recalled:
        stream_id = str(order_id)
        loaded = await load(self.store, ORDER, stream_id)
        state = loaded.state
        if isinstance(state, order.Absent):
            return Recalled()
        status, owed = ORDER.status(state), None
        asked: dict[str, str] = {}
        if isinstance(state, order.Completed):
            match await self._shipment(order_id):
                case shipment.Completed():
                    status = "SHIPPED"
                case shipment.Absent():
                    completion = await self._completion(stream_id)
                    owed, asked = completion.event_id, _asked(completion.metadata)
                case shipment.Open() | None:
                    pass
        return Recalled(
            order_number=state.order_number,
            business_partner=state.business_partner,
            status=status,
            version=loaded.version,
            owed=owed,
            **asked,
        )

    async def _shipment(self, order_id: UUID) -> shipment.State | None:
        """The order's shipment; None if its stream was deleted, so that there was one."""
        try:
            return (await load(self.store, SHIPMENT, str(await shipment_of(self.store, order_id)))).state
        except StreamDeleted:
            return None

    async def _completion(self, stream_id: str) -> RecordedEvent:
        """The event that completed the order: its last one as a rule."""
        completed = TYPE_OF_EVENT[order.OrderCompleted]
        read = partial(self.store.read_stream, stream_id, backwards=True)
        pages = in_batches(read, size=100)
        return await anext(event async for page in pages for event in page if event.type == completed)


def _asked(metadata: bytes | None) -> dict[str, str]:
    """Another program's metadata may be anything."""
    try:
        found: Any = orjson.loads(metadata or b"{}")
    except orjson.JSONDecodeError:
        return {}
    known: dict[str, Any] = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {name: known[name] for name in ("request_id", "traceparent") if isinstance(known.get(name), str)}
