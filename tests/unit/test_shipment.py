"""The life of a shipment, as CONTRACT.md tells it: every command in every state."""

from uuid import UUID

import pytest

from domain.aggregates import SHIPMENT, follow_up
from domain.shipment import (
    Absent,
    Command,
    CompleteShipment,
    CreateShipment,
    Event,
    ShipmentCompleted,
    ShipmentCreated,
    State,
    evolve,
)
from tests.specification import Refused, given

ORDER_ID = UUID("7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10")
SHIPMENT_ID = UUID("0d9f3b6e-50a7-5c53-b0f4-5b1f6d4f2a11")

create = CreateShipment(id=SHIPMENT_ID, order_id=ORDER_ID)
complete = CompleteShipment(id=SHIPMENT_ID)

created = ShipmentCreated(id=SHIPMENT_ID, order_id=ORDER_ID)
completed = ShipmentCompleted(id=SHIPMENT_ID)

HISTORIES: dict[str, tuple[Event, ...]] = {
    "absent": (),
    "open": (created,),
    "completed": (created, completed),
}
STATES: list[State] = [SHIPMENT.fold(history) for history in HISTORIES.values()]
COMMANDS: list[Command] = [create, complete]
EVENTS: list[Event] = [created, completed]


def test_a_shipment_is_created_for_its_order() -> None:
    given().when(create).then(created)


@pytest.mark.parametrize("state", ["open", "completed"])
def test_a_shipment_is_created_once_and_never_again(state: str) -> None:
    already = Refused("shipment-already-created", "Shipment already created")
    given(*HISTORIES[state]).when(create).then(already)


def test_an_open_shipment_is_completed() -> None:
    given(created).when(complete).then(completed)


def test_a_shipment_that_does_not_exist_is_not_completed() -> None:
    given().when(complete).then(Refused("shipment-not-found", "Shipment not found"))


def test_a_shipment_is_completed_once() -> None:
    already = Refused("shipment-already-completed", "Shipment already completed")
    given(created, completed).when(complete).then(already)


@pytest.mark.parametrize("state", HISTORIES)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_every_command_in_every_state_yields_events_or_a_refusal(command: Command, state: str) -> None:
    assert given(*HISTORIES[state]).when(command).outcome


@pytest.mark.parametrize("state", STATES, ids=list(HISTORIES))
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_can_follow_on_every_state(event: Event, state: State) -> None:
    assert isinstance(evolve(state, event), State)


def test_a_shipment_has_the_status_that_people_know() -> None:
    statuses = {name: SHIPMENT.status(SHIPMENT.fold(history)) for name, history in HISTORIES.items()}
    assert statuses == {"absent": None, "open": "OPEN", "completed": "COMPLETED"}


def test_the_completion_of_a_shipment_that_was_never_created_leaves_it_absent() -> None:
    assert SHIPMENT.fold([completed]) == Absent()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_nothing_follows_from_events_of_a_shipment(event: Event) -> None:
    assert follow_up(event) is None
