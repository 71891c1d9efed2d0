"""What is stored, byte for byte, and what is read back: our own events, older ones, and another system's."""

import csv
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from domain.aggregates import EVENT_TYPES, ORDER, SHIPMENT, Event
from domain.order import Open, OrderCompleted, OrderCreated, OrderDeleted, OrderItemAdded
from domain.shipment import ShipmentCompleted, ShipmentCreated
from domain.values import RecordedItem, Value
from eventstore.codec import (
    UPCASTERS,
    UndecodableEvent,
    Upcaster,
    decode,
    decode_snapshot,
    encode,
    encode_snapshot,
)
from eventstore.store import RecordedEvent, Snapshot

ORDER_ID = UUID("7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10")
PRODUCT_ID = UUID("3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c01")
EVENT_ID = UUID("11111111-1111-5111-8111-111111111111")
SHIPMENT_ID = UUID("6781e7c8-9e26-5d16-bc85-0db066a655c0")

# A storage format: these bytes are in people's databases.
STORED: dict[str, tuple[Event, bytes]] = {
    "Order.OrderCreated": (
        OrderCreated(
            id=ORDER_ID,
            order_number="A-1 ü",
            business_partner="ann@example.com",
            items=(RecordedItem(product_id=PRODUCT_ID, quantity=Decimal("1.10"), uom="KG"),),
        ),
        (
            b'{"id":"7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10","order_number":"A-1 \xc3\xbc",'
            b'"business_partner":"ann@example.com","items":[{"product_id":'
            b'"3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c01","quantity":1.1,"uom":"KG"}]}'
        ),
    ),
    "Order.OrderItemAdded": (
        OrderItemAdded(id=ORDER_ID, product_id=PRODUCT_ID, quantity=Decimal(20), uom="MT"),
        (
            b'{"id":"7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10",'
            b'"product_id":"3c0d5a5e-63a1-4c5c-8a38-0a4b1a3f7c01","quantity":20,"uom":"MT"}'
        ),
    ),
    "Order.OrderCompleted": (
        OrderCompleted(id=ORDER_ID),
        b'{"id":"7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10"}',
    ),
    "Order.OrderDeleted": (
        OrderDeleted(id=ORDER_ID),
        b'{"id":"7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10"}',
    ),
    "Shipment.ShipmentCreated": (
        ShipmentCreated(id=SHIPMENT_ID, order_id=ORDER_ID),
        (b'{"id":"6781e7c8-9e26-5d16-bc85-0db066a655c0","order_id":"7f4c1a52-6a0e-4b8b-9d3e-2f7a0c8d9e10"}'),
    ),
    "Shipment.ShipmentCompleted": (
        ShipmentCompleted(id=SHIPMENT_ID),
        b'{"id":"6781e7c8-9e26-5d16-bc85-0db066a655c0"}',
    ),
}


def recorded(event_type: str, data: bytes, event_id: UUID = EVENT_ID) -> RecordedEvent:
    return RecordedEvent(
        event_id=event_id,
        number=1,
        position=7,
        stream_id=str(ORDER_ID),
        version=1,
        type=event_type,
        data=data,
        metadata=b"{}",
        causation_id=None,
        correlation_id=None,
        created_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    )


def snapshot(status: object = "OPEN", **changed: Any) -> Snapshot:
    data = {"id": str(ORDER_ID), "order_number": "A-1", "business_partner": "ann@example.com", "status": status}
    record: dict[str, Any] = {
        "source_id": str(ORDER_ID),
        "source_version": 2,
        "source_type": "Order.Aggregate.Order",
        "data": json.dumps(data).encode(),
        "metadata": b'{"snapshot_module_version":1}',
    }
    return Snapshot(**record | changed)


@pytest.mark.parametrize("event_type", STORED)
def test_an_event_is_stored_under_its_type_with_these_bytes(event_type: str) -> None:
    event, data = STORED[event_type]
    assert encode(event) == (event_type, data)
    assert list(decode(recorded(event_type, data))) == [event]


def test_every_event_has_its_stored_form_written_down_here() -> None:
    assert set(STORED) == set(EVENT_TYPES)


def test_an_event_type_that_nobody_here_knows_is_carried_along_and_means_nothing() -> None:
    assert list(decode(recorded("Invoice.InvoiceSent", b"\xff not even JSON"))) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{", b"\xff", b'{"id":null}', b'{"id":"hunter2"}', b'{"id":"hunter2","x":1}'],
)
def test_an_event_with_data_that_is_not_its_own_is_named_without_quoting_it(data: bytes) -> None:
    with pytest.raises(UndecodableEvent) as undecodable:
        decode(recorded("Order.OrderCompleted", data))
    assert undecodable.value.event.data == data
    said = str(undecodable.value)
    assert said.startswith(f"event {EVENT_ID} (Order.OrderCompleted) at position 7: ")
    assert "hunter2" not in said


def test_an_upcaster_gives_an_older_shape_its_present_meaning() -> None:
    def split_name(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return [("Order.OrderCompleted", {"id": data["order"]}), ("Order.OrderDeleted", {"id": data["order"]})]

    older = recorded("Order.OrderFinished", json.dumps({"order": str(ORDER_ID)}).encode())
    meaning = decode(older, {"Order.OrderFinished": split_name})
    assert list(meaning) == [OrderCompleted(id=ORDER_ID), OrderDeleted(id=ORDER_ID)]


def test_an_upcaster_comes_before_the_present_shape_of_the_same_type() -> None:
    def rename(data: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        return [("Order.OrderCompleted", {"id": data["order"]})]

    older = recorded("Order.OrderCompleted", json.dumps({"order": str(ORDER_ID)}).encode())
    assert list(decode(older, {"Order.OrderCompleted": rename})) == [OrderCompleted(id=ORDER_ID)]


@pytest.mark.parametrize("error", [ValueError(), KeyError("order"), IndexError(), TypeError(), AttributeError()])
def test_data_that_an_upcaster_can_not_make_sense_of_is_undecodable(error: Exception) -> None:
    def fail(data: object) -> list[tuple[str, dict[str, Any]]]:
        raise error

    upcasters: dict[str, Upcaster] = {"Order.OrderCompleted": fail}
    with pytest.raises(UndecodableEvent):
        decode(recorded("Order.OrderCompleted", b"{}"), upcasters)


def test_an_upcaster_that_names_an_event_that_does_not_exist_is_undecodable() -> None:
    upcasters: dict[str, Upcaster] = {"Order.OrderCompleted": lambda data: [("Order.OrderEaten", data)]}
    with pytest.raises(UndecodableEvent):
        decode(recorded("Order.OrderCompleted", b"{}"), upcasters)


def test_every_upcaster_ends_in_events_that_exist() -> None:
    assert set(UPCASTERS) <= set(EVENT_TYPES), "no older shape so far: say here what it is when there is one"


@pytest.mark.parametrize("kind", ORDER.states.values(), ids=lambda kind: kind.__name__)
def test_an_order_survives_its_snapshot(kind: type[Value]) -> None:
    state = kind.model_validate({"id": ORDER_ID, "order_number": "A-1", "business_partner": "ann@example.com"})
    kept = encode_snapshot(ORDER, str(ORDER_ID), 2, state)
    assert (kept.source_id, kept.source_version, kept.source_type) == (
        str(ORDER_ID),
        2,
        "Order.Aggregate.Order",
    )
    assert json.loads(kept.metadata or b"") == {"snapshot_module_version": 1}
    assert decode_snapshot(ORDER, kept) == state


@pytest.mark.parametrize("kind", SHIPMENT.states.values(), ids=lambda kind: kind.__name__)
def test_a_shipment_survives_its_snapshot(kind: type[Value]) -> None:
    state = kind.model_validate({"id": SHIPMENT_ID, "order_id": ORDER_ID})
    assert decode_snapshot(SHIPMENT, encode_snapshot(SHIPMENT, str(SHIPMENT_ID), 2, state)) == state


def test_a_snapshot_is_written_as_the_original_layout_has_it() -> None:
    state = Open(id=ORDER_ID, order_number="A-1", business_partner="ann@example.com")
    assert json.loads(encode_snapshot(ORDER, str(ORDER_ID), 2, state).data) == json.loads(snapshot().data)


UNUSABLE = {
    "of another aggregate": snapshot(source_type="Shipment.Aggregate.Shipment"),
    "of another format": snapshot(metadata=b'{"snapshot_module_version":2}'),
    "of a format that is no JSON": snapshot(metadata=b"{"),
    "of no format": snapshot(metadata=None),
    "empty": snapshot(data=b""),
    "no JSON": snapshot(data=b"\xff"),
    "null": snapshot(data=b"null"),
    "a list": snapshot(data=b"[]"),
    "without a status": snapshot(data=b"{}"),
    "with nothing but a status": snapshot(data=b'{"status":"OPEN"}'),
    "with a status that nobody knows": snapshot(status="EATEN"),
    "with a status that is null": snapshot(status=None),
    "with a status that is a list": snapshot(status=["OPEN"]),
}


@pytest.mark.parametrize("what", UNUSABLE)
def test_a_snapshot_that_can_not_be_read_is_as_good_as_none(what: str) -> None:
    assert decode_snapshot(ORDER, UNUSABLE[what]) is None


# --- What another system left behind

ELIXIR = Path(__file__).parents[3] / "shared" / "data" / "elixir-event-store"

needs_elixir_data = pytest.mark.skipif(
    not ELIXIR.is_dir(), reason="the data of the original application is not beside this repository"
)


UNREADABLE_SNAPSHOTS = {
    "76f013b8-28cd-4eef-aec2-d8fdb547855d": "of an order that was completed but never created",
    "d238a9c0-aae7-4c86-b019-38cf673e99c1": "of a format that is not ours",
}


def rows(database: str, table: str) -> Iterator[dict[str, str]]:
    with gzip.open(ELIXIR / database / f"{table}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def bytea(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix(r"\x"))


def stored_events(database: str) -> list[RecordedEvent]:
    return [recorded(row["event_type"], bytea(row["data"]), UUID(row["event_id"])) for row in rows(database, "events")]


def stored_streams(database: str) -> dict[str, list[RecordedEvent]]:
    events = {event.event_id: event for event in stored_events(database)}
    names = {row["stream_id"]: row["stream_uuid"] for row in rows(database, "streams")}
    own = [row for row in rows(database, "stream_events") if row["stream_id"] == row["original_stream_id"]]
    streams: dict[str, list[RecordedEvent]] = {}
    for row in sorted(own, key=lambda row: int(row["stream_version"])):
        streams.setdefault(names[row["stream_id"]], []).append(events[UUID(row["event_id"])])
    return streams


@needs_elixir_data
def test_every_event_of_a_clean_database_of_the_original_is_understood_without_loss() -> None:
    events = stored_events("clean")
    assert len(events) == 1375
    for event in events:
        (meaning,) = decode(event)
        event_type, data = encode(meaning)
        assert (event_type, json.loads(data)) == (event.type, json.loads(event.data))


@needs_elixir_data
def test_a_dirty_database_of_the_original_has_two_events_that_nobody_can_understand() -> None:
    undecodable: dict[str, bytes] = {}
    for event in stored_events("dirty"):
        try:
            (meaning,) = decode(event)
        except UndecodableEvent as refused:
            undecodable[str(refused.event.event_id)] = refused.event.data
        else:
            said = json.loads(event.data)
            # One order has its id in capitals, another has it without hyphens.
            assert json.loads(encode(meaning)[1]) == said | {"id": str(UUID(said["id"]))}
    # They complete an order and a shipment that never existed.
    assert undecodable == {
        "bef1a74d-bba3-44e6-b2be-4bf94402468b": b'{"id":null}',
        "e204669b-3690-488a-8912-b6a260f9ac3c": b'{"id":null}',
    }


@needs_elixir_data
@pytest.mark.parametrize(("database", "unreadable"), [("clean", {}), ("dirty", UNREADABLE_SNAPSHOTS)])
def test_a_snapshot_of_the_original_is_what_its_stream_folds_to(database: str, unreadable: dict[str, str]) -> None:
    streams = stored_streams(database)
    ignored: set[str] = set()
    for row in rows(database, "snapshots"):
        kept = Snapshot(
            source_id=row["source_uuid"],
            source_version=int(row["source_version"]),
            source_type=row["source_type"],
            data=bytea(row["data"]),
            metadata=bytea(row["metadata"]),
        )
        state = decode_snapshot(ORDER, kept)
        if state is None:
            ignored.add(kept.source_id)
            continue
        history = streams[kept.source_id][: kept.source_version]
        assert len(history) == kept.source_version
        fold: Any = ORDER.fold
        assert state == fold(meaning for event in history for meaning in decode(event))
    assert ignored == set(unreadable)
