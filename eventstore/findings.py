"""What an audit can find: the words of `waybill verify` and `waybill adopt`."""

from collections.abc import Mapping
from dataclasses import dataclass

KINDS: Mapping[str, str] = {
    "hole": "Numbers are missing",
    "misplaced-event": "Events are not where they say that they are",
    "out-of-order": "Events of a stream have changed places",
    "undecodable-event": "Events can't be read",
    "never-existed": "Events of orders and shipments that never existed",
    "illegal-event": "Events that the state before them doesn't allow",
    "names-another": "Events name another order or shipment than their stream does",
    "stream-name": "Streams are not named by an id in its usual form",
    "closed-stream": "Streams were deleted, but not for good: their orders are shown, and take no commands",
    "same-id": "Several streams mean one id",
    "number-taken-twice": "Order numbers are taken twice: the first order has the claim, the other lives on without",
    "unusual-number": "Order numbers break today's rules",
    "no-shipment": "Completed orders have no shipment",
    "several-shipments": "Orders have more than one shipment: the first counts",
    "astray-shipment": "Shipments are of orders that aren't completed",
    "idle-claim": "Claims are held by an owner that doesn't live, or doesn't live by them",
    "missing-claim": "Orders live without their claim",
    "wrong-snapshot": "Snapshots are not what the events say",
    "useless-snapshot": "Snapshots can't be used: the events are read instead",
    "parked-event": "Events are parked: `waybill parked` looks after them",
    "projection-missing": "Projections have no rows of this version yet",
    "projection-ahead": "Projections have seen more events than there are",
    "wrong-row": "Rows are not what the events say",
    "missing-row": "Rows are missing",
    "surplus-row": "Rows that no event has made",
}
"""Every kind of finding and its headline, in the order in which they are told."""

HARMLESS = frozenset({"stream-name", "closed-stream", "unusual-number", "useless-snapshot"})
"""Odd, and worth a word at adoption; but nothing is wrong with a store that has them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    kind: str
    subject: str
    """What it is about, the same each time: the id of an event, an order, a shipment or a row, a stream, a claim."""
    text: str
