"""What a projection understands of a recorded event, and how its batches grow."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import pytest

from domain.aggregates import EVENT_TYPES
from domain.order import OrderCompleted
from domain.shipment import ShipmentCreated
from eventstore.codec import UndecodableEvent, encode
from eventstore.store import RecordedEvent
from projections.faults import raise_if_cancelled
from projections.following import next_batch_size
from projections.orders import ORDERS, item_id
from projections.registry import PROJECTIONS
from projections.shipments import SHIPMENTS

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ORDER_ID = "6c7c1e2a-4c7c-4ac5-9a7c-0f5e2a3f4b5c"


def test_an_item_is_named_after_its_event_and_its_place_in_it():
    event_id = uuid4()
    assert [item_id(event_id, index) for index in range(1000)] == [uuid5(event_id, str(i)) for i in range(1000)]


def recorded(stream_id: str, event_type: str, data: bytes) -> RecordedEvent:
    return RecordedEvent(
        event_id=uuid4(),
        number=9,
        position=9,
        stream_id=stream_id,
        version=3,
        type=event_type,
        data=data,
        metadata=b"{}",
        causation_id=None,
        correlation_id=None,
        created_at=NOW,
    )


def test_every_event_is_shown_in_some_read_model():
    assert {name for projection in PROJECTIONS for name in projection.types} == set(EVENT_TYPES)


def test_projections_are_known_by_their_names():
    assert len({projection.name for projection in PROJECTIONS}) == len(PROJECTIONS)


def test_an_event_comes_with_its_place_and_time():
    order_id = uuid4()
    event = OrderCompleted(id=order_id)

    (happened,) = ORDERS.understand(recorded(str(order_id), *encode(event)))

    assert (happened.event, happened.aggregate_id) == (event, order_id)
    assert (happened.version, happened.position, happened.at) == (3, 9, NOW)


def test_a_read_model_takes_its_own_events_only():
    shipment_id = uuid4()
    event = recorded(str(shipment_id), *encode(ShipmentCreated(id=shipment_id, order_id=uuid4())))

    assert len(SHIPMENTS.understand(event)) == 1
    assert SHIPMENTS.understand(recorded(str(shipment_id), *encode(OrderCompleted(id=uuid4())))) == []


@pytest.mark.parametrize(
    ("stream_id", "data"),
    [
        (ORDER_ID, b'{"id": null}'),
        (ORDER_ID, b"broken"),
        (ORDER_ID, b""),
        ("orders", f'{{"id": "{ORDER_ID}"}}'.encode()),
    ],
)
def test_an_event_that_makes_no_sense_is_undecodable(stream_id: str, data: bytes):
    with pytest.raises(UndecodableEvent, match="at position 9"):
        ORDERS.understand(recorded(stream_id, "Order.OrderCompleted", data))


@pytest.mark.parametrize("form", [str, lambda it: it.hex, lambda it: str(it).upper()])
def test_a_stream_may_be_named_in_any_form_of_its_uuid(form: Callable[[UUID], str]):
    order_id = uuid4()

    (happened,) = ORDERS.understand(recorded(form(order_id), *encode(OrderCompleted(id=order_id))))

    assert happened.aggregate_id == order_id


def test_batches_grow_while_there_is_more():
    sizes = [100]
    for _ in range(6):
        sizes.append(next_batch_size(sizes[-1], full=True, took=0.01, patience=0.5, most=2000))
    assert sizes == [100, 200, 400, 800, 1600, 2000, 2000]


def test_batches_shrink_when_there_is_little_to_do():
    assert next_batch_size(2000, full=False, took=0.01, patience=0.5, most=2000) == 1000
    assert next_batch_size(100, full=False, took=0.01, patience=0.5, most=2000) == 100


def test_a_batch_that_took_too_long_is_halved():
    assert next_batch_size(2000, full=True, took=0.6, patience=0.5, most=2000) == 1000


def test_a_batch_is_never_larger_than_asked_for():
    assert next_batch_size(10, full=True, took=0.01, patience=0.5, most=10) == 10
    assert next_batch_size(10, full=False, took=0.01, patience=0.5, most=10) == 10


async def test_a_cancellation_is_not_lost_to_what_fails_meanwhile():
    async def work() -> None:
        try:
            try:
                await asyncio.sleep(60)
            finally:
                raise ConnectionResetError  # As a ROLLBACK on a dead connection does.
        except ConnectionResetError as error:
            raise_if_cancelled(error)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    raise_if_cancelled(ConnectionResetError())  # Nobody is.
