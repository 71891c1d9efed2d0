"""All events of orders in one stream, for readers who want them without the rest."""

from collections.abc import Sequence

from eventstore.store import EventNotFound, EventStore, RecordedEvent
from projections.handlers.handler import Handler, NotDoneYet

NAME = "stream_linker"
ORDERS_STREAM = "d2466ee2-52d9-5083-a1e9-60a0d796e9c6"
"""uuid5(NAMESPACE_OID, "orders"). Its name is a storage format."""

# So that many links go into one transaction while many events come.
_RIPE_AFTER = 0.1


def stream_linker(store: EventStore, *, batch: int = 1000) -> Handler:
    """Linking twice links once; what another program has linked before is left out."""

    async def link(events: Sequence[RecordedEvent]) -> NotDoneYet:
        ids = [event.event_id for event in events]
        while ids:
            try:
                await store.link(ORDERS_STREAM, ids)
            except EventNotFound:
                # Purged since it was read.
                ids = [event.event_id for event in await store.find_events(ids)]
            else:
                break
        return {}

    return Handler(
        NAME, wants=lambda event: event.type.startswith("Order."), handle=link, ripe_after=_RIPE_AFTER, batch=batch
    )
