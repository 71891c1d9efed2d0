"""Step 2: what the decision needs and the caller can't know."""

from dataclasses import dataclass
from uuid import UUID

from temporalio import activity

from activities.failures import refusing
from domain.commands import CommandRequest
from domain.values import Value
from eventstore.products import blocked_in
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
            version, blocked = await blocked_in(self.store, request.stream_id)
            return Enrichment(order_version=version, blocked_products=tuple(blocked))
