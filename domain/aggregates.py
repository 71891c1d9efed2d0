"""The aggregates as deciders: an initial state, decide, evolve, and the names that are stored with them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, assert_never

from domain import order, shipment
from domain.ids import shipment_id
from domain.values import Value

C = TypeVar("C", bound=Value)
S = TypeVar("S", bound=Value)
E = TypeVar("E", bound=Value)


@dataclass(frozen=True)
class Aggregate(Generic[C, S, E]):
    """One kind of stream: what its commands do to its state, by which events."""

    name: str
    initial: S
    decide: Callable[[C, S], Sequence[E]]
    evolve: Callable[[S, E], S]
    commands: tuple[type[C], ...]
    events: tuple[type[E], ...]
    states: Mapping[str, type[S]]
    """The states that exist, by the status that people and snapshots call them."""

    def fold(self, events: Iterable[E], state: S | None = None) -> S:
        """`state`, or the initial one, after the events."""
        folded = self.initial if state is None else state
        for event in events:
            folded = self.evolve(folded, event)
        return folded

    def status(self, state: S) -> str | None:
        """OPEN, COMPLETED, ...; None while there is nothing."""
        return next((status for status, kind in self.states.items() if type(state) is kind), None)


ORDER: Aggregate[order.Command, order.State, order.Event] = Aggregate(
    name="Order",
    initial=order.Absent(),
    decide=order.decide,
    evolve=order.evolve,
    commands=(order.CreateOrder, order.AddOrderItem, order.CompleteOrder, order.DeleteOrder),
    events=(order.OrderCreated, order.OrderItemAdded, order.OrderCompleted, order.OrderDeleted),
    states={"OPEN": order.Open, "COMPLETED": order.Completed, "DELETED": order.Deleted},
)

SHIPMENT: Aggregate[shipment.Command, shipment.State, shipment.Event] = Aggregate(
    name="Shipment",
    initial=shipment.Absent(),
    decide=shipment.decide,
    evolve=shipment.evolve,
    commands=(shipment.CreateShipment, shipment.CompleteShipment),
    events=(shipment.ShipmentCreated, shipment.ShipmentCompleted),
    states={"OPEN": shipment.Open, "COMPLETED": shipment.Completed},
)

AGGREGATES: tuple[Aggregate[Any, Any, Any], ...] = (ORDER, SHIPMENT)

Command = order.Command | shipment.Command
Event = order.Event | shipment.Event

COMMANDS: Mapping[str, tuple[Aggregate[Any, Any, Any], type[Command]]] = {
    command.__name__: (aggregate, command) for aggregate in AGGREGATES for command in aggregate.commands
}
"""Every command by its name, with the aggregate that decides it."""

EVENT_TYPES: Mapping[str, type[Event]] = {
    f"{aggregate.name}.{event.__name__}": event for aggregate in AGGREGATES for event in aggregate.events
}
"""Every event by the type that is stored: `Order.OrderCreated`. A storage format."""

TYPE_OF_EVENT: Mapping[type[Event], str] = {event: name for name, event in EVENT_TYPES.items()}


def follow_up(event: Event) -> shipment.CreateShipment | None:
    """The process in one function: what an event makes Waybill do next."""
    if isinstance(event, order.OrderCompleted):
        return shipment.CreateShipment(id=shipment_id(event.id), order_id=event.id)
    return None


def status_after(event: Event) -> str:
    """The status that an aggregate has once this event has happened."""
    match event:
        case order.OrderCreated() | order.OrderItemAdded() | shipment.ShipmentCreated():
            return "OPEN"
        case order.OrderCompleted() | shipment.ShipmentCompleted():
            return "COMPLETED"
        case order.OrderDeleted():
            return "DELETED"
        case _:
            assert_never(event)
