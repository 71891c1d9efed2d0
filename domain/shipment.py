"""A shipment: what a completed order becomes, until it has gone out."""

from collections.abc import Sequence
from typing import assert_never
from uuid import UUID

from domain.refusals import ShipmentAlreadyCompleted, ShipmentAlreadyCreated, ShipmentNotFound
from domain.values import Id, Value

# --- Commands


class CreateShipment(Value):
    """Follows from OrderCompleted; nobody else sends it."""

    id: Id
    order_id: Id


class CompleteShipment(Value):
    id: Id


Command = CreateShipment | CompleteShipment


# --- Events: a storage format. They never change, they get upcasters.


class ShipmentCreated(Value):
    id: UUID
    order_id: UUID


class ShipmentCompleted(Value):
    id: UUID


Event = ShipmentCreated | ShipmentCompleted


# --- States


class Absent(Value):
    """There is no such shipment."""


class _Existing(Value):
    id: UUID
    order_id: UUID


class Open(_Existing):
    """It waits to go out."""


class Completed(_Existing):
    """Final: it has gone out."""


State = Absent | Open | Completed


# --- Decide


def decide(command: Command, state: State) -> Sequence[Event]:
    """What the command changes. Raises the Refusal that says why it may not."""
    match command:
        case CreateShipment():
            return _create(command, state)
        case CompleteShipment():
            return _complete(command, state)
        case _:
            assert_never(command)


def _create(command: CreateShipment, state: State) -> Sequence[Event]:
    if not isinstance(state, Absent):
        raise ShipmentAlreadyCreated
    return [ShipmentCreated(id=command.id, order_id=command.order_id)]


def _complete(command: CompleteShipment, state: State) -> Sequence[Event]:
    match state:
        case Open():
            return [ShipmentCompleted(id=command.id)]
        case Absent():
            raise ShipmentNotFound
        case Completed():
            raise ShipmentAlreadyCompleted
        case _:
            assert_never(state)


# --- Evolve


def evolve(state: State, event: Event) -> State:
    """The state after the event. It repeats what the event says, decides nothing and never fails."""
    match event:
        case ShipmentCreated():
            return Open(id=event.id, order_id=event.order_id)
        case ShipmentCompleted():
            return state if isinstance(state, Absent) else Completed(**dict(state))
        case _:
            assert_never(event)
