"""What is claimed: the business keys that one owner may hold."""

from uuid import UUID

from domain.ids import shipment_id
from eventstore.store import EventStore

ORDER_NUMBER = "order_number"
"""Key: an order's number. Owner: the order, until it is deleted."""
SHIPMENT = "shipment"
"""Key: an adopted order's id. Owner: its shipment, whose id was made up by another program."""


async def shipment_of(store: EventStore, order_id: UUID) -> UUID:
    """The order's one shipment: of an adopted order the one that it came with, else the one that it has or will have.

    Whoever is about to create a shipment asks here first: an order never gets a second one.
    """
    return await store.claim_owner(SHIPMENT, str(order_id)) or shipment_id(order_id)
