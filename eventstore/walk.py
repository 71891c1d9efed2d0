"""Goes through streams event by event: can each be read, and would the domain have let it happen?

Only the stream that it is in is in memory; what became of it is handed on.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from domain import order, shipment
from domain.aggregates import AGGREGATES, EVENT_TYPES, ORDER, Aggregate, Event
from domain.ids import shipment_id
from domain.refusals import Refusal
from domain.values import OrderNumber, Value
from eventstore.codec import UPCASTERS, UndecodableEvent, decode, decode_snapshot
from eventstore.findings import Finding
from eventstore.store import RecordedEvent, Snapshot

_AGGREGATE_OF: Mapping[type[Event], Aggregate[Any, Any, Any]] = {
    event: aggregate for aggregate in AGGREGATES for event in aggregate.events
}
_COMMAND_OF: Mapping[type[Event], type[Value]] = {
    order.OrderCreated: order.CreateOrder,
    order.OrderItemAdded: order.AddOrderItem,
    order.OrderCompleted: order.CompleteOrder,
    order.OrderDeleted: order.DeleteOrder,
    shipment.ShipmentCreated: shipment.CreateShipment,
    shipment.ShipmentCompleted: shipment.CompleteShipment,
}
_BEGINNINGS = (order.OrderCreated, shipment.ShipmentCreated)
_ORDER_NUMBER: TypeAdapter[str] = TypeAdapter(OrderNumber)
_LONGEST_NUMBER = 64


@dataclass(slots=True)
class _Stream:
    """A stream, as far as its events have been seen."""

    name: str
    id: UUID | None
    """What the name means."""
    aggregate: Aggregate[Any, Any, Any] | None = None
    """What it is a stream of, by its first event of a known type."""
    state: Any = None
    position: int = 0
    born_at: int = 0
    completed_at: datetime | None = None

    def begin(self, kind: type[Event]) -> None:
        if self.aggregate is None:
            self.aggregate = _AGGREGATE_OF[kind]
            self.state = self.aggregate.initial

    @property
    def is_empty(self) -> bool:
        return self.aggregate is None or self.state == self.aggregate.initial


class Walk:
    """Give it all events, stream by stream in the order of their versions, then `leave`."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.unknown_types: Counter[str] = Counter()
        self.orders: list[tuple[Any, ...]] = []
        """id, stream, number (None if it can't be claimed), status, position of its creation, time of its completion"""
        self.shipments: list[tuple[Any, ...]] = []
        """id, stream, order's id, status, position of its creation, whether the id derives from the order's"""
        self._at = _Stream("", None)

    def see(self, recorded: RecordedEvent, snapshot: Snapshot | None) -> None:
        """The next event, with the stream's snapshot if it is of this version."""
        if self._at.name != recorded.stream_id:
            self.leave()
            self._at = _Stream(recorded.stream_id, _id_of(recorded.stream_id))
        at = self._at
        # One that isn't in the global sequence at all is found there.
        if 0 < recorded.position <= at.position:
            self._find("out-of-order", recorded, f"follows the event at {at.position} in its stream")
        at.position = recorded.position
        if recorded.type not in EVENT_TYPES and recorded.type not in UPCASTERS:
            self.unknown_types[recorded.type] += 1
        try:
            for event in decode(recorded):
                self._fold(at, recorded, event)
        except UndecodableEvent as undecodable:
            self._note_undecodable(at, recorded, undecodable)
        if snapshot:
            self._compare(at, snapshot)

    def leave(self) -> None:
        """The stream has no more events."""
        at = self._at
        if at.aggregate is None:
            return
        if at.id is None:
            self.findings.append(Finding("stream-name", at.name, f"{at.name!r} is no id: its events aren't shown"))
            return
        if at.name != str(at.id):
            self.findings.append(Finding("stream-name", at.name, f"{at.name} is asked for, and shown, as {at.id}"))
        if at.is_empty:
            return
        status = at.aggregate.status(at.state)
        if at.aggregate is ORDER:
            number = self._claimable(at.id, at.state.order_number)
            self.orders.append((at.id, at.name, number, status, at.born_at, at.completed_at))
        else:
            derived = at.id == shipment_id(at.state.order_id)
            self.shipments.append((at.id, at.name, at.state.order_id, status, at.born_at, derived))

    def _fold(self, at: _Stream, recorded: RecordedEvent, event: Event) -> None:
        at.begin(type(event))
        assert at.aggregate
        if not isinstance(event, at.aggregate.events):
            self._find("illegal-event", recorded, f"the stream is that of an {at.aggregate.name}")
            return
        named = "" if at.id in {None, event.id} else f"it names {event.id}"
        if refusal := _refusal(at.aggregate, event, at.state):
            kind = "never-existed" if at.is_empty else "illegal-event"
            self._find(kind, recorded, "; ".join(filter(None, [refusal.message, named])))
        elif named:
            self._find("names-another", recorded, named)
        if isinstance(event, _BEGINNINGS):
            at.born_at = recorded.position
        elif isinstance(event, order.OrderCompleted):
            at.completed_at = recorded.created_at
        at.state = at.aggregate.evolve(at.state, event)

    def _note_undecodable(self, at: _Stream, recorded: RecordedEvent, undecodable: UndecodableEvent) -> None:
        kind = EVENT_TYPES.get(recorded.type)
        if kind:
            at.begin(kind)
        never_existed = kind and kind not in _BEGINNINGS and at.is_empty
        kind_of_finding = "never-existed" if never_existed else "undecodable-event"
        self._find(kind_of_finding, recorded, f"it can't be read ({undecodable.why})")

    def _compare(self, at: _Stream, snapshot: Snapshot) -> None:
        state = decode_snapshot(at.aggregate, snapshot) if at.aggregate else None
        text = f"{snapshot.source_id}, version {snapshot.source_version}"
        if state is None:
            text += f": {snapshot.source_type} in a format that isn't today's"
            self.findings.append(Finding("useless-snapshot", snapshot.source_id, text))
        elif state != at.state:
            self.findings.append(Finding("wrong-snapshot", snapshot.source_id, text))

    def _claimable(self, order_id: UUID, number: str) -> str | None:
        """The number, if it can be the key of a claim."""
        try:
            return _ORDER_NUMBER.validate_python(number)
        except ValidationError:
            text = f"order {order_id}: {number[:_LONGEST_NUMBER]!r}"
            self.findings.append(Finding("unusual-number", str(order_id), text))
        return None if "\0" in number or len(number) > _LONGEST_NUMBER else number

    def _find(self, kind: str, recorded: RecordedEvent, what: str) -> None:
        where = f"position {recorded.position}, {recorded.type} in {recorded.stream_id} at version {recorded.version}"
        self.findings.append(Finding(kind, str(recorded.event_id), f"{where}: {what}"))


def _refusal(aggregate: Aggregate[Any, Any, Any], event: Event, state: Value) -> Refusal | None:
    """Why the domain doesn't let the event happen in this state."""
    # Not checked as a command from outside: what was valid then may not be valid today.
    command = _COMMAND_OF[type(event)].model_construct(**dict(event))
    try:
        aggregate.decide(command, state)
    except Refusal as refusal:
        return refusal
    return None


def _id_of(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None
