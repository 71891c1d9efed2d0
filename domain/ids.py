"""Ids that derive from what caused them, so that doing a thing twice gives the same thing, not a second one.

These derivations are a storage format: they never change.
"""

from uuid import UUID, uuid5

NAMESPACE = UUID("8c8f5b0e-2c5b-5d0a-9a55-3c1f6f0f7a11")
"""Namespace of the ids that derive from a caller's words."""


def event_id(command_id: UUID, index: int) -> UUID:
    """The id of the command's event number `index`, counted from 0."""
    return uuid5(command_id, str(index))


def shipment_id(order_id: UUID) -> UUID:
    """An order has one shipment, so its id is known before it exists."""
    return uuid5(order_id, "shipment")


def caused_command_id(cause: UUID, command: str) -> UUID:
    """The id of the command that follows from an event."""
    return uuid5(cause, command)


def keyed_command_id(actor: str, key: str) -> UUID:
    """The id of the command that a caller named with an Idempotency-Key. Keys of different actors don't meet."""
    return uuid5(NAMESPACE, f"{actor}\n{key}")


def order_id_for(command_id: UUID) -> UUID:
    """The id of an order whose creator named none."""
    return uuid5(command_id, "order")


def correlation_id(order_id: UUID) -> UUID:
    """One per order process: the order's id, so that every event of the process is one `where` away."""
    return order_id
