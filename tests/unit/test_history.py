"""An order as it was, folded from its events: which moment belongs to which version, and how much is read for it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from api.history import order_as_of, order_at_version
from api.pagination import MAX_POSITION
from domain.aggregates import Event
from domain.ids import shipment_id
from domain.order import OrderCompleted, OrderDeleted
from domain.shipment import ShipmentCompleted, ShipmentCreated
from eventstore.memory import MemoryStore
from eventstore.store import RecordedEvent
from projecting import added, append, append_all, created, whole_life

BEGAN = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINUTE, TICK = timedelta(minutes=1), timedelta(microseconds=1)


class Store(MemoryStore):
    """Its events are a minute apart, unless it is told otherwise, and it counts those that are read."""

    def __init__(self, minutes: Sequence[int] = range(20_000)) -> None:
        super().__init__()
        self.read = 0
        self._minutes = minutes

    async def read_stream(
        self, stream_id: str, *, after: int = 0, limit: int = 1000, backwards: bool = False
    ) -> list[RecordedEvent]:
        events = await super().read_stream(stream_id, after=after, limit=limit, backwards=backwards)
        self.read += len(events)
        return [event._replace(created_at=BEGAN + self._minutes[event.position - 1] * MINUTE) for event in events]


@pytest.fixture
def order_id() -> UUID:
    return uuid4()


async def store_of(*history: tuple[str, Event]) -> Store:
    store = Store()
    await append_all(store, history)
    return store


async def test_a_moment_belongs_to_what_was_recorded_at_it(order_id: UUID):
    store = await store_of(*whole_life(order_id))
    shipment = shipment_id(order_id)

    async def status(moment: datetime) -> tuple[str, int, int | None]:
        then = await order_as_of(store, order_id, shipment, moment)
        assert then is not None
        return then[0].status, then[0].version, then[0].shipment_version

    for minute, expected in enumerate(
        [("OPEN", 1, None), ("OPEN", 2, None), ("COMPLETED", 3, None), ("COMPLETED", 3, 1), ("SHIPPED", 3, 2)]
    ):
        moment = BEGAN + minute * MINUTE
        assert await status(moment) == expected
        assert await status(moment + MINUTE - TICK) == expected


async def test_before_it_was_created_there_was_no_order(order_id: UUID):
    store = await store_of(*whole_life(order_id))
    assert await order_as_of(store, order_id, shipment_id(order_id), BEGAN - TICK) is None


async def test_an_order_is_shown_as_it_was_until_the_next_version(order_id: UUID):
    """Its shipment's events change no version of the order: they belong to the one it was at."""
    store = await store_of(*whole_life(order_id))
    shipment = shipment_id(order_id)

    shown = [await order_at_version(store, order_id, shipment, version) for version in (1, 2, 3)]

    assert [(row.status, row.version, len(items), row.shipment_version) for row, items in filter(None, shown)] == [
        ("OPEN", 1, 2, None),
        ("OPEN", 2, 3, None),
        ("SHIPPED", 3, 3, 2),
    ]


@pytest.mark.parametrize("version", [4, 1000, 1001, MAX_POSITION])
async def test_a_version_that_it_never_had_is_none(order_id: UUID, version: int):
    store = await store_of(*whole_life(order_id))
    assert await order_at_version(store, order_id, shipment_id(order_id), version) is None


async def test_an_order_that_never_was_has_no_past(order_id: UUID):
    store = await store_of(*whole_life(uuid4()))
    assert await order_at_version(store, order_id, shipment_id(order_id), 1) is None
    assert await order_as_of(store, order_id, shipment_id(order_id), BEGAN + 9 * MINUTE) is None


async def test_a_deleted_order_was_there_until_its_deletion(order_id: UUID):
    name = str(order_id)
    store = await store_of((name, created(order_id)), (name, OrderDeleted(id=order_id)))
    shipment = shipment_id(order_id)

    assert await order_at_version(store, order_id, shipment, 1) is not None
    assert await order_at_version(store, order_id, shipment, 2) is None
    assert await order_as_of(store, order_id, shipment, BEGAN + MINUTE - TICK) is not None
    assert await order_as_of(store, order_id, shipment, BEGAN + MINUTE) is None


async def test_a_shipment_of_another_name_is_the_orders_too(order_id: UUID):
    name, shipment = str(order_id), uuid4()
    store = await store_of(
        (name, created(order_id)),
        (name, OrderCompleted(id=order_id)),
        (str(shipment), ShipmentCreated(id=shipment, order_id=order_id)),
        (str(shipment), ShipmentCompleted(id=shipment)),
    )

    then = await order_at_version(store, order_id, shipment, 2)

    assert then is not None
    assert (then[0].status, then[0].shipment_id) == ("SHIPPED", shipment)


async def test_an_early_version_of_a_long_history_is_read_without_the_rest(order_id: UUID):
    store = Store()
    await append(store, str(order_id), created(order_id), *(added(order_id) for _ in range(9_999)))

    then = await order_at_version(store, order_id, shipment_id(order_id), 3)

    assert then is not None
    assert len(then[1]) == 3
    assert store.read == 4


async def test_an_early_moment_of_a_long_history_is_read_without_most_of_the_rest(order_id: UUID):
    store = Store()
    await append(store, str(order_id), created(order_id), *(added(order_id) for _ in range(9_999)))

    then = await order_as_of(store, order_id, shipment_id(order_id), BEGAN)

    assert then is not None
    assert len(then[1]) == 1
    assert store.read <= 1000


@pytest.mark.parametrize("version", [999, 1000, 1001, 2000])
async def test_a_version_is_complete_wherever_the_pages_of_its_events_end(order_id: UUID, version: int):
    store = Store()
    await append(store, str(order_id), created(order_id), *(added(order_id) for _ in range(1_999)))

    then = await order_at_version(store, order_id, shipment_id(order_id), version)

    assert then is not None
    assert (then[0].version, len(then[1])) == (version, version)


async def test_where_a_clock_ran_backwards_the_first_later_event_is_the_end(order_id: UUID):
    store = Store(minutes=[0, 2, 1])
    await append(store, str(order_id), created(order_id), added(order_id), added(order_id))

    then = await order_as_of(store, order_id, shipment_id(order_id), BEGAN + MINUTE)

    assert then is not None
    assert (then[0].version, len(then[1])) == (1, 1)
