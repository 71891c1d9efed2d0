"""An order: who wants what, until it is completed or deleted."""

from collections.abc import Sequence
from typing import assert_never
from uuid import UUID

from domain.refusals import (
    OrderAlreadyCompleted,
    OrderAlreadyCreated,
    OrderNotFound,
    OrderWasDeleted,
    ProductsBlocked,
)
from domain.values import Email, Id, Items, OrderNumber, Quantity, RecordedItem, RecordedQuantity, Uom, Value

# --- Commands


class CreateOrder(Value):
    id: Id
    order_number: OrderNumber
    business_partner: Email
    items: Items


class AddOrderItem(Value):
    id: Id
    product_id: Id
    quantity: Quantity
    uom: Uom


class CompleteOrder(Value):
    """`blocked_products` are those of the order's products that must not be sold: looked up, not said by the caller."""

    id: Id
    blocked_products: tuple[Id, ...] = ()


class DeleteOrder(Value):
    id: Id


Command = CreateOrder | AddOrderItem | CompleteOrder | DeleteOrder


# --- Events: a storage format. They never change, they get upcasters.


class OrderCreated(Value):
    id: UUID
    order_number: str
    business_partner: str
    items: tuple[RecordedItem, ...]


class OrderItemAdded(Value):
    id: UUID
    product_id: UUID
    quantity: RecordedQuantity
    uom: str


class OrderCompleted(Value):
    id: UUID


class OrderDeleted(Value):
    id: UUID


Event = OrderCreated | OrderItemAdded | OrderCompleted | OrderDeleted


# --- States


class Absent(Value):
    """There is no such order."""


class _Existing(Value):
    id: UUID
    order_number: str
    business_partner: str


class Open(_Existing):
    """Items may be added; it may be completed or deleted."""


class Completed(_Existing):
    """Final: it waits for its shipment, or has it."""


class Deleted(_Existing):
    """Final: its number is free for another order."""


State = Absent | Open | Completed | Deleted


# --- Decide


def decide(command: Command, state: State) -> Sequence[Event]:
    """What the command changes. Raises the Refusal that says why it may not."""
    match command:
        case CreateOrder():
            return _create(command, state)
        case AddOrderItem():
            return _add_item(command, state)
        case CompleteOrder():
            return _complete(command, state)
        case DeleteOrder():
            return _delete(command, state)
        case _:
            assert_never(command)


def _create(command: CreateOrder, state: State) -> Sequence[Event]:
    if not isinstance(state, Absent):
        raise OrderAlreadyCreated
    return [
        OrderCreated(
            id=command.id,
            order_number=command.order_number,
            business_partner=command.business_partner,
            items=tuple(RecordedItem(**dict(item)) for item in command.items),
        )
    ]


def _add_item(command: AddOrderItem, state: State) -> Sequence[Event]:
    _must_be_open(state)
    return [OrderItemAdded(**dict(command))]


def _complete(command: CompleteOrder, state: State) -> Sequence[Event]:
    _must_be_open(state)
    if command.blocked_products:
        raise ProductsBlocked.of_products(command.blocked_products)
    return [OrderCompleted(id=command.id)]


def _delete(command: DeleteOrder, state: State) -> Sequence[Event]:
    _must_be_open(state)
    return [OrderDeleted(id=command.id)]


def _must_be_open(state: State) -> None:
    match state:
        case Open():
            return
        case Absent():
            raise OrderNotFound
        case Completed():
            raise OrderAlreadyCompleted
        case Deleted():
            raise OrderWasDeleted
        case _:
            assert_never(state)


# --- Evolve


def evolve(state: State, event: Event) -> State:
    """The state after the event. It repeats what the event says, decides nothing and never fails."""
    match event:
        case OrderCreated():
            return Open(id=event.id, order_number=event.order_number, business_partner=event.business_partner)
        case OrderItemAdded():
            return state
        case OrderCompleted():
            return state if isinstance(state, Absent) else Completed(**dict(state))
        case OrderDeleted():
            return state if isinstance(state, Absent) else Deleted(**dict(state))
        case _:
            assert_never(event)
