"""The read models once more, from the documentation: what their rows have to be after these events."""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

from proof.evidence import Event

Table = dict[UUID, dict[str, Any]]


def folded(events: Sequence[Event]) -> tuple[Table, Table, Table]:
    """The rows of orders, order_items and shipments, by their ids."""
    orders: Table = {}
    items: dict[UUID, Table] = {}
    shipments: Table = {}
    for event in events:
        stream, at = UUID(event.stream), event.created_at
        born = {"id": stream, "position": event.position, "inserted_at": at, "updated_at": at, "version": event.version}
        match event.type:
            case "Order.OrderCreated":
                named = {name: event.data[name] for name in ("order_number", "business_partner")}
                orders[stream] = {**born, **named, "status": "OPEN", "shipment_id": None, "shipment_version": None}
                items[stream] = {}
                _put(items[stream], event, event.data["items"])
            case "Order.OrderItemAdded":
                _put(items[stream], event, [event.data])
                orders[stream] |= {"version": event.version, "updated_at": at}
            case "Order.OrderCompleted":
                orders[stream] |= {"version": event.version, "updated_at": at, "status": "COMPLETED"}
            case "Order.OrderDeleted":
                del orders[stream], items[stream]
            case "Shipment.ShipmentCreated":
                order = UUID(event.data["order_id"])
                shipments[stream] = {**born, "order_id": order, "status": "OPEN"}
                orders[order] |= {"shipment_id": stream, "shipment_version": event.version, "updated_at": at}
            case _:
                shipments[stream] |= {"version": event.version, "updated_at": at, "status": "COMPLETED"}
                order = shipments[stream]["order_id"]
                orders[order] |= {"shipment_version": event.version, "updated_at": at, "status": "SHIPPED"}
    return orders, {item: row for rows in items.values() for item, row in rows.items()}, shipments


def _put(rows: Table, event: Event, items: Sequence[Mapping[str, Any]]) -> None:
    for index, item in enumerate(items):
        row_id = uuid5(event.id, str(index))
        rows[row_id] = {
            "id": row_id,
            "order_id": UUID(event.stream),
            "line": len(rows),
            "product_id": UUID(item["product_id"]),
            # Compared with a Decimal: a float's shortest form is what was written.
            "quantity": _Exactly(item["quantity"]),
            "uom": item["uom"],
            "inserted_at": event.created_at,
            "updated_at": event.created_at,
        }


class _Exactly(float):
    """A number of JSON, beside a Decimal of PostgreSQL."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return float(str(other)) == float(self)

    __hash__ = float.__hash__
