"""What a run that has forgotten, or can't be sure, needs to know of its order: the truth is in the event store."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from temporalio import activity

from domain import order, shipment
from domain.aggregates import ORDER, SHIPMENT, TYPE_OF_EVENT
from domain.values import Value
from eventstore.claims import shipment_of
from eventstore.codec import UndecodableEvent
from eventstore.repository import fold, read_whole
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


@dataclass(frozen=True)
class RecallOrder:
    store: EventStore

    @activity.defn(name="RecallOrder")
    async def run(self, order_id: UUID) -> Recalled:
        try:
            return await self._recall(order_id)
        except UndecodableEvent as undecodable:
            log.warning("order.unreadable", order_id=str(order_id), reason=str(undecodable))
            return Recalled(status="UNREADABLE")
        except StreamDeleted:
            return Recalled()

    async def _recall(self, order_id: UUID) -> Recalled:
        history = await read_whole(self.store, str(order_id))
        state = fold(ORDER, history)
        if isinstance(state, order.Absent):
            return Recalled()
        status, owed = ORDER.status(state), None
        if isinstance(state, order.Completed):
            match await self._shipment(order_id):
                case shipment.Completed():
                    status = "SHIPPED"
                case shipment.Absent():
                    owed = _completion(history)
                case shipment.Open() | None:
                    pass
        return Recalled(
            order_number=state.order_number,
            business_partner=state.business_partner,
            status=status,
            version=history[-1].version,
            owed=owed,
        )

    async def _shipment(self, order_id: UUID) -> shipment.State | None:
        """The order's shipment; None if its stream was deleted, so that there was one."""
        try:
            return fold(SHIPMENT, await read_whole(self.store, str(await shipment_of(self.store, order_id))))
        except StreamDeleted:
            return None


def _completion(history: Sequence[RecordedEvent]) -> UUID:
    completed = TYPE_OF_EVENT[order.OrderCompleted]
    return next(recorded.event_id for recorded in history if recorded.type == completed)
