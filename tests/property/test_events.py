"""Every event survives the store, and whatever a command accepts is kept exactly as it was accepted."""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.aggregates import AGGREGATES, COMMANDS, ORDER, Aggregate, Event
from domain.order import CreateOrder, OrderCompleted, OrderCreated, OrderDeleted, OrderItemAdded
from domain.refusals import ValidationFailed
from domain.shipment import ShipmentCompleted, ShipmentCreated
from domain.validation import parse
from domain.values import RecordedItem
from eventstore.codec import decode, decode_snapshot, encode, encode_snapshot
from eventstore.store import RecordedEvent
from tests.property.values import emails, ids, items, order_numbers, quantities, uoms

recorded_items = st.builds(RecordedItem, product_id=ids, quantity=quantities, uom=uoms)
order_events = st.one_of(
    st.builds(
        OrderCreated,
        id=ids,
        order_number=order_numbers,
        business_partner=emails,
        items=st.lists(recorded_items, max_size=4).map(tuple),
    ),
    st.builds(OrderItemAdded, id=ids, product_id=ids, quantity=quantities, uom=uoms),
    st.builds(OrderCompleted, id=ids),
    st.builds(OrderDeleted, id=ids),
)
shipment_events = st.one_of(st.builds(ShipmentCreated, id=ids, order_id=ids), st.builds(ShipmentCompleted, id=ids))
HISTORIES = {"Order": st.lists(order_events, max_size=6), "Shipment": st.lists(shipment_events, max_size=6)}


def through_the_store(event: Event) -> list[Event]:
    event_type, data = encode(event)
    at = datetime(2026, 1, 31, tzinfo=UTC)
    return list(decode(RecordedEvent(UUID(int=1), 1, 1, "", 1, event_type, data, b"{}", None, None, at)))


@given(order_events | shipment_events)
def test_every_event_survives_the_store(event: Event) -> None:
    assert through_the_store(event) == [event]


@given(ids, order_numbers, emails, st.lists(items, min_size=1, max_size=4))
def test_what_is_accepted_is_what_is_stored(order_id: UUID, number: str, partner: str, lines: list[Any]) -> None:
    asked = {
        "id": str(order_id),
        "order_number": number,
        "business_partner": partner,
        "items": [line.model_dump(mode="json") for line in lines],
    }
    command = parse(CreateOrder, json.loads(json.dumps(asked)))
    (created,) = ORDER.decide(command, ORDER.initial)
    stored = json.loads(encode(created)[1])
    assert stored == command.model_dump(mode="json")
    assert stored == asked | {"business_partner": command.business_partner}


@given(st.sampled_from(AGGREGATES).flatmap(lambda kind: st.tuples(st.just(kind), HISTORIES[kind.name])))
def test_a_snapshot_at_any_point_and_the_events_after_it_are_the_whole_history(
    told: tuple[Aggregate[Any, Any, Any], list[Any]],
) -> None:
    aggregate, history = told
    whole = aggregate.fold(history)
    for version in range(len(history) + 1):
        state = aggregate.fold(history[:version])
        if aggregate.status(state) is None:
            continue
        snapshot = encode_snapshot(aggregate, "a stream", version, state)
        start = decode_snapshot(aggregate, snapshot)
        assert start == state
        assert aggregate.fold(history[version:], start) == whole


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(["id", "order_number", "business_partner", "items", "product_id", "quantity", "uom"])
hostile = st.dictionaries(fields | st.text() | st.characters(categories=["Cs"]), anything, max_size=6)


@given(st.sampled_from(sorted(COMMANDS)), hostile)
def test_whatever_comes_is_a_command_or_is_told_what_is_wrong_in_plain_text(command: str, data: dict[str, Any]) -> None:
    aggregate, model = COMMANDS[command]
    try:
        outcome: Any = parse(model, data)
    except ValidationFailed as failed:
        outcome = failed
    if not isinstance(outcome, ValidationFailed):
        assert isinstance(outcome, aggregate.commands)
        return
    violations: Any = outcome.details["errors"]
    assert violations
    for violation in violations:
        assert violation["code"]
        assert violation["detail"]
        assert not violation["pointer"] or violation["pointer"].startswith("/")
    assert json.dumps([outcome.message, violations], ensure_ascii=False).encode()
