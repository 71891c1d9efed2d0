"""The life of an order, as CONTRACT.md tells it: every command in every state."""

from decimal import Decimal
from uuid import UUID

import pytest

from domain.aggregates import ORDER, follow_up
from domain.order import (
    Absent,
    AddOrderItem,
    Command,
    CompleteOrder,
    CreateOrder,
    DeleteOrder,
    Event,
    OrderCompleted,
    OrderCreated,
    OrderDeleted,
    OrderItemAdded,
    State,
    evolve,
)
from domain.shipment import CreateShipment
from domain.values import Item, RecordedItem
from tests.specification import Refused, given

ORDER_ID = UUID("7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10")
APPLES = UUID("3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c01")
PEARS = UUID("3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c02")

create = CreateOrder(
    id=ORDER_ID,
    order_number="A-1",
    business_partner="ann@example.com",
    items=(Item(product_id=APPLES, quantity=Decimal("1.5"), uom="KG"),),
)
add_item = AddOrderItem(id=ORDER_ID, product_id=PEARS, quantity=Decimal(2), uom="MT")
complete = CompleteOrder(id=ORDER_ID)
delete = DeleteOrder(id=ORDER_ID)

created = OrderCreated(
    id=ORDER_ID,
    order_number="A-1",
    business_partner="ann@example.com",
    items=(RecordedItem(product_id=APPLES, quantity=Decimal("1.5"), uom="KG"),),
)
item_added = OrderItemAdded(id=ORDER_ID, product_id=PEARS, quantity=Decimal(2), uom="MT")
completed = OrderCompleted(id=ORDER_ID)
deleted = OrderDeleted(id=ORDER_ID)

NOT_FOUND = Refused("order-not-found", "Order not found")
ALREADY_CREATED = Refused("order-already-created", "Order already created")
ALREADY_COMPLETED = Refused("order-already-completed", "Order already completed")
WAS_DELETED = Refused("order-deleted", "Order was deleted")

HISTORIES: dict[str, tuple[Event, ...]] = {
    "absent": (),
    "open": (created,),
    "open, with an item added": (created, item_added),
    "completed": (created, completed),
    "deleted": (created, deleted),
}
STATES: list[State] = [ORDER.fold(history) for history in HISTORIES.values()]
COMMANDS: list[Command] = [create, add_item, complete, delete]
EVENTS: list[Event] = [created, item_added, completed, deleted]


def test_an_order_is_created_with_its_items() -> None:
    given().when(create).then(created)


@pytest.mark.parametrize("state", ["open", "open, with an item added", "completed", "deleted"])
def test_an_order_is_created_once_and_never_again(state: str) -> None:
    given(*HISTORIES[state]).when(create).then(ALREADY_CREATED)


def test_an_item_is_added_to_an_open_order() -> None:
    given(created).when(add_item).then(item_added)


def test_the_same_product_may_be_added_twice() -> None:
    given(created, item_added).when(add_item).then(item_added)


def test_no_item_is_added_to_an_order_that_does_not_exist() -> None:
    given().when(add_item).then(NOT_FOUND)


def test_no_item_is_added_to_a_completed_order() -> None:
    given(created, completed).when(add_item).then(ALREADY_COMPLETED)


def test_no_item_is_added_to_a_deleted_order() -> None:
    given(created, deleted).when(add_item).then(WAS_DELETED)


def test_an_open_order_is_completed() -> None:
    given(created).when(complete).then(completed)
    given(created, item_added).when(complete).then(completed)


def test_an_order_that_does_not_exist_is_not_completed() -> None:
    given().when(complete).then(NOT_FOUND)


def test_an_order_is_completed_once() -> None:
    given(created, completed).when(complete).then(ALREADY_COMPLETED)


def test_a_deleted_order_is_not_completed() -> None:
    given(created, deleted).when(complete).then(WAS_DELETED)


def test_an_order_with_a_blocked_product_is_not_completed() -> None:
    refused = Refused("products-blocked", f"Order contains blocked products: {APPLES}")
    command = CompleteOrder(id=ORDER_ID, blocked_products=(APPLES,))
    given(created).when(command).then(refused).saying(product_ids=[str(APPLES)])


def test_all_blocked_products_are_named_at_once() -> None:
    refused = Refused("products-blocked", f"Order contains blocked products: {APPLES}, {PEARS}")
    command = CompleteOrder(id=ORDER_ID, blocked_products=(APPLES, PEARS))
    given(created, item_added).when(command).then(refused).saying(product_ids=[str(APPLES), str(PEARS)])


@pytest.mark.parametrize(
    ("state", "refused"),
    [("absent", NOT_FOUND), ("completed", ALREADY_COMPLETED), ("deleted", WAS_DELETED)],
)
def test_what_an_order_is_matters_more_than_its_blocked_products(state: str, refused: Refused) -> None:
    command = CompleteOrder(id=ORDER_ID, blocked_products=(APPLES,))
    given(*HISTORIES[state]).when(command).then(refused)


def test_an_open_order_is_deleted() -> None:
    given(created).when(delete).then(deleted)
    given(created, item_added).when(delete).then(deleted)


def test_an_order_that_does_not_exist_is_not_deleted() -> None:
    given().when(delete).then(NOT_FOUND)


def test_a_completed_order_is_not_deleted() -> None:
    given(created, completed).when(delete).then(ALREADY_COMPLETED)


def test_an_order_is_deleted_once() -> None:
    given(created, deleted).when(delete).then(WAS_DELETED)


@pytest.mark.parametrize("state", HISTORIES)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_every_command_in_every_state_yields_events_or_a_refusal(command: Command, state: str) -> None:
    assert given(*HISTORIES[state]).when(command).outcome


@pytest.mark.parametrize("state", STATES, ids=list(HISTORIES))
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_can_follow_on_every_state(event: Event, state: State) -> None:
    assert isinstance(evolve(state, event), State)


def test_an_order_has_the_status_that_people_know() -> None:
    statuses = {name: ORDER.status(ORDER.fold(history)) for name, history in HISTORIES.items()}
    assert statuses == {
        "absent": None,
        "open": "OPEN",
        "open, with an item added": "OPEN",
        "completed": "COMPLETED",
        "deleted": "DELETED",
    }


@pytest.mark.parametrize("event", [item_added, completed, deleted], ids=lambda event: type(event).__name__)
def test_events_of_an_order_that_was_never_created_leave_it_absent(event: Event) -> None:
    assert ORDER.fold([event]) == Absent()


def test_a_completed_order_becomes_a_shipment_with_an_id_known_beforehand() -> None:
    assert follow_up(completed) == CreateShipment(id=UUID("6781e7c8-9e26-5d16-bc85-0db066a655c0"), order_id=ORDER_ID)


@pytest.mark.parametrize("event", [created, item_added, deleted], ids=lambda event: type(event).__name__)
def test_nothing_follows_from_other_events_of_an_order(event: Event) -> None:
    assert follow_up(event) is None
