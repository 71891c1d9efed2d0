"""An order as it was, at one of its versions or at a moment: what the read model showed, from the events themselves."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from uuid import UUID

from eventstore.batches import in_batches
from eventstore.store import EventStore, RecordedEvent
from projections.orders import ORDERS, ItemRow, OrderRow, Orders

_PAGE = 1000

Then = tuple[OrderRow, Sequence[ItemRow]]


async def order_at_version(store: EventStore, order_id: UUID, shipment: UUID, version: int) -> Then | None:
    """The order with its items at `version`, just before the next one; None if it had no such version, or was deleted.

    No more is read of its events than were there then.
    """
    own, following = await _until(store, order_id, lambda event: event.version > version, most=version + 1)
    if not own or own[-1].version < version:
        return None
    # What happened to its shipment while the order was at this version belongs to it.
    end = None if following is None else following.position
    shipped, _ = await _until(store, shipment, lambda event: end is not None and event.position > end)
    return _fold(order_id, [*own, *shipped])


async def order_as_of(store: EventStore, order_id: UUID, shipment: UUID, moment: datetime) -> Then | None:
    """The order with its items after all that was recorded up to `moment`, that included; None if there was none then.

    Time never runs backwards in a stream. Where it did, before it was adopted, the first event after the moment is
    the end.
    """

    def later(event: RecordedEvent) -> bool:
        return event.created_at > moment

    own, _ = await _until(store, order_id, later)
    shipped, _ = await _until(store, shipment, later)
    return _fold(order_id, [*own, *shipped])


async def _until(
    store: EventStore, stream: UUID, end: Callable[[RecordedEvent], bool], *, most: int = _PAGE
) -> tuple[list[RecordedEvent], RecordedEvent | None]:
    """The stream's events before the first that is the `end`, and that one; `most` are read at a time."""
    events: list[RecordedEvent] = []
    async for page in in_batches(partial(store.read_stream, str(stream)), size=min(most, _PAGE)):
        for event in page:
            if end(event):
                return events, event
            events.append(event)
    return events, None


def _fold(order_id: UUID, events: Iterable[RecordedEvent]) -> Then | None:
    orders = Orders()
    for recorded in sorted(events, key=lambda event: event.position):
        for happened in ORDERS.understand(recorded):
            orders.evolve(happened)
    row = orders.rows.get(order_id)
    return (row, orders.items[order_id]) if row else None
