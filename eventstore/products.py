"""Which products an order has: by what is kept of it up to a version, and the events after that.

So the price of completing an order doesn't grow with its history. What is kept derives from events alone: whoever
wrote them, and whenever, it can be caught up.
"""

from collections.abc import Iterable
from functools import partial
from uuid import UUID

from domain.order import OrderCreated, OrderItemAdded
from eventstore.batches import in_batches
from eventstore.codec import decode
from eventstore.repository import PAGE
from eventstore.store import EventStore, RecordedEvent

KEEP_EVERY = 50
"""Events of an order between two times that its products are kept."""


async def blocked_in(store: EventStore, stream_id: str) -> tuple[int, list[UUID]]:
    """The order's version, 0 if there is none, and those of its products that must not be sold, by id.

    Raises UndecodableEvent and StreamDeleted.
    """
    kept = await store.kept_products(stream_id)
    version, news = await _products_after(store, stream_id, kept.version)
    blocked = (
        {product.product_id for product in await store.blocked_products(among=list(news))} if news else set[UUID]()
    )
    return version, sorted(blocked.union(kept.blocked))


async def keep_products(store: EventStore, stream_id: str) -> None:
    """Catch up what is kept of the order's products."""
    kept = await store.kept_products(stream_id)
    version, news = await _products_after(store, stream_id, kept.version)
    await store.keep_products(stream_id, list(news), seen=kept.version, version=version)


async def _products_after(store: EventStore, stream_id: str, version: int) -> tuple[int, set[UUID]]:
    """The version that the stream is at, and the products that its events after `version` name."""
    products: set[UUID] = set()
    async for page in in_batches(partial(store.read_stream, stream_id), after=version, size=PAGE):
        products.update(_products(page))
        version = page[-1].number
    return version, products


def _products(page: Iterable[RecordedEvent]) -> Iterable[UUID]:
    for event in (event for recorded in page for event in decode(recorded)):
        if isinstance(event, OrderCreated):
            yield from (item.product_id for item in event.items)
        elif isinstance(event, OrderItemAdded):
            yield event.product_id
