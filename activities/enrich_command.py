"""Step 2: what the decision needs and the caller can't know."""

from dataclasses import dataclass
from uuid import UUID

from temporalio import activity

from activities.failures import refusing
from domain.commands import CommandRequest
from domain.order import OrderCreated, OrderItemAdded
from domain.values import Value
from eventstore.codec import decode
from eventstore.repository import read_whole
from eventstore.store import EventStore


class Enrichment(Value):
    """Facts, and the version of the order that they are about."""

    order_version: int
    blocked_products: tuple[UUID, ...]


@dataclass(frozen=True)
class EnrichCommand:
    store: EventStore

    @activity.defn(name="EnrichCommand")
    async def run(self, request: CommandRequest) -> Enrichment:
        """The order's products that are blocked. From its events: a read model may lag."""
        async with refusing(self.store, request):
            history = await read_whole(self.store, request.stream_id)
            products: set[UUID] = set()
            for event in (event for recorded in history for event in decode(recorded)):
                if isinstance(event, OrderCreated):
                    products.update(item.product_id for item in event.items)
                elif isinstance(event, OrderItemAdded):
                    products.add(event.product_id)
            blocked = await self.store.blocked_products(among=list(products))
            return Enrichment(
                order_version=history[-1].version if history else 0,
                blocked_products=tuple(product.product_id for product in blocked),
            )
