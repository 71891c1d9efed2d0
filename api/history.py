"""An order as it was, at one of its versions or at a moment: what the read model showed, from the events themselves."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from eventstore.repository import read_whole
from eventstore.store import EventStore, RecordedEvent
from projections.orders import ORDERS, ItemRow, OrderRow, Orders


async def order_then(
    store: EventStore, order_id: UUID, shipment: UUID, *, version: int | None = None, moment: datetime | None = None
) -> tuple[OrderRow, Sequence[ItemRow]] | None:
    """The order with its items at `version`, just before the next one, or after all that was recorded up to `moment`.

    None if there was no such order then.
    """
    own = await read_whole(store, str(order_id))
    events = [*own, *await read_whole(store, str(shipment))]
    if moment is not None:
        events = [event for event in events if event.created_at <= moment]
    if version is not None:
        if version > len(own):
            return None
        following = own[version:]
        events = [event for event in events if not following or event.position < following[0].position]
    return _fold(order_id, events)


def _fold(order_id: UUID, events: Iterable[RecordedEvent]) -> tuple[OrderRow, Sequence[ItemRow]] | None:
    orders = Orders()
    for recorded in sorted(events, key=lambda event: event.position):
        for happened in ORDERS.understand(recorded):
            orders.evolve(happened)
    row = orders.rows.get(order_id)
    return (row, orders.items[order_id]) if row else None
