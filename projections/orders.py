"""The read model of orders: the tables orders and order_items, with what became of each order's shipment.

A batch is applied as a fold: read the rows that it touches, let the events change them one after the other, write
what has changed. So the rows are the same however the events are cut into batches.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from hashlib import sha1
from typing import TYPE_CHECKING, assert_never
from uuid import UUID

from domain.order import OrderCompleted, OrderCreated, OrderDeleted, OrderItemAdded
from domain.shipment import ShipmentCompleted, ShipmentCreated
from domain.values import RecordedItem
from eventstore.statements import load_statements
from projections.projection import Happened, Projection, QuickUUID, columns, insert

if TYPE_CHECKING:
    from projections.projection import Connection

_SQL = load_statements("projections", "orders.sql")


@dataclass(slots=True)
class OrderRow:
    """A row of orders."""

    id: UUID
    order_number: str
    business_partner: str
    status: str
    version: int
    shipment_id: UUID | None
    shipment_version: int | None
    position: int
    inserted_at: datetime
    updated_at: datetime


@dataclass(slots=True)
class ItemRow:
    """A row of order_items."""

    id: UUID
    order_id: UUID
    line: int
    product_id: UUID
    quantity: Decimal
    uom: str
    inserted_at: datetime
    updated_at: datetime


class Orders:
    """The orders that a batch touches: as they were, then event by event, as they are to be.

    Adopted events may be repeated, contradict each other or be about orders that never were. None of it is an error
    here: what an event is about either is there and changes, or isn't there.
    """

    def __init__(
        self, rows: Iterable[OrderRow] = (), lines: Mapping[UUID, int] | None = None, born: Collection[UUID] = ()
    ) -> None:
        self.rows = {row.id: row for row in rows}
        self.items: defaultdict[UUID, list[ItemRow]] = defaultdict(list)
        """What comes to the items that the orders have already."""
        self.changed: set[UUID] = set()
        self.emptied: set[UUID] = set()
        """Orders that are gone, or began anew: what the tables hold of them goes first."""
        self.born = born
        """Orders that are in no table yet."""
        self._lines = dict(lines or {})
        self._orders_of_shipment: defaultdict[UUID, set[UUID]] = defaultdict(set)
        for row in self.rows.values():
            if row.shipment_id:
                self._orders_of_shipment[row.shipment_id].add(row.id)

    def evolve(self, happened: Happened) -> None:
        match happened.event:
            case OrderCreated() as created:
                self._create(happened, created)
            case OrderDeleted():
                self._empty(happened.aggregate_id)
            case OrderItemAdded() as added:
                if row := self._advance(happened):
                    item = RecordedItem(product_id=added.product_id, quantity=added.quantity, uom=added.uom)
                    self._add_items(row, happened, [item])
            case OrderCompleted():
                row = self._advance(happened)
                if row and row.status == "OPEN":
                    row.status = "COMPLETED"
            case ShipmentCreated(order_id=order_id):
                self._attach_shipment(happened, order_id)
            case ShipmentCompleted():
                for row in self._shipped_with(happened):
                    row.status = "SHIPPED"
            case _:
                assert_never(happened.event)

    def _create(self, happened: Happened, created: OrderCreated) -> None:
        if happened.version > 1:
            self._empty(happened.aggregate_id)
        row = OrderRow(
            id=happened.aggregate_id,
            order_number=created.order_number,
            business_partner=created.business_partner,
            status="OPEN",
            version=happened.version,
            shipment_id=None,
            shipment_version=None,
            position=happened.position,
            inserted_at=happened.at,
            updated_at=happened.at,
        )
        self.rows[row.id] = row
        self.changed.add(row.id)
        self._add_items(row, happened, created.items)

    def _empty(self, order_id: UUID) -> None:
        self.emptied.add(order_id)
        self.changed.discard(order_id)
        self._lines.pop(order_id, None)
        self.items.pop(order_id, None)
        row = self.rows.pop(order_id, None)
        if row and row.shipment_id:
            self._orders_of_shipment[row.shipment_id].discard(order_id)

    def _advance(self, happened: Happened) -> OrderRow | None:
        row = self.rows.get(happened.aggregate_id)
        if row:
            row.version = happened.version
            self._touch(row, happened)
        return row

    def _touch(self, row: OrderRow, happened: Happened) -> None:
        # Clocks of adopted events run backwards now and then.
        row.updated_at = max(row.updated_at, happened.at)
        self.changed.add(row.id)

    def _add_items(self, row: OrderRow, happened: Happened, items: Sequence[RecordedItem]) -> None:
        first = self._lines.get(row.id, 0)
        self._lines[row.id] = first + len(items)
        self.items[row.id] += [
            ItemRow(
                id=item_id(happened.event_id, index),
                order_id=row.id,
                line=first + index,
                product_id=item.product_id,
                quantity=item.quantity,
                uom=item.uom,
                inserted_at=happened.at,
                updated_at=happened.at,
            )
            for index, item in enumerate(items)
        ]

    def _attach_shipment(self, happened: Happened, order_id: UUID) -> None:
        """An order has one shipment, the first."""
        row = self.rows.get(order_id)
        if row and row.shipment_id in (None, happened.aggregate_id):
            row.shipment_id = happened.aggregate_id
            row.shipment_version = happened.version
            self._orders_of_shipment[happened.aggregate_id].add(order_id)
            self._touch(row, happened)

    def _shipped_with(self, happened: Happened) -> list[OrderRow]:
        rows = [self.rows[order_id] for order_id in self._orders_of_shipment[happened.aggregate_id]]
        for row in rows:
            row.shipment_version = happened.version
            self._touch(row, happened)
        return rows


def item_id(event_id: UUID, index: int) -> UUID:
    """`uuid5(event_id, str(index))`, which the standard library takes three times as long for: a rebuild makes many."""
    digest = bytearray(sha1(event_id.bytes + b"%d" % index, usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    return QuickUUID(bytes(digest))


async def _apply(connection: "Connection", batch: Sequence[Happened]) -> None:
    orders = await _read(connection, batch)
    for happened in batch:
        orders.evolve(happened)
    await _write(connection, orders)


async def _read(connection: "Connection", batch: Sequence[Happened]) -> Orders:
    born: set[UUID] = set()
    order_ids: set[UUID] = set()
    shipment_ids: set[UUID] = set()
    growing: set[UUID] = set()
    for happened in batch:
        match happened.event:
            case OrderCreated() if happened.version == 1:
                # The first event of its stream: no table knows the order.
                born.add(happened.aggregate_id)
            case ShipmentCreated(order_id=order_id):
                order_ids.add(order_id)
            case ShipmentCompleted():
                shipment_ids.add(happened.aggregate_id)
            case event:
                order_ids.add(happened.aggregate_id)
                if isinstance(event, OrderItemAdded):
                    growing.add(happened.aggregate_id)
    order_ids -= born
    growing -= born
    rows = await connection.fetch(_SQL["touched"], order_ids, shipment_ids) if order_ids or shipment_ids else []
    lines = await connection.fetch(_SQL["lines"], growing) if growing else []
    return Orders((OrderRow(*row.values()) for row in rows), {row["order_id"]: row["lines"] for row in lines}, born)


async def _write(connection: "Connection", orders: Orders) -> None:
    if orders.emptied:
        await connection.execute(_SQL["remove_items"], orders.emptied)
        await connection.execute(_SQL["remove"], orders.emptied)
    known = [orders.rows[order_id] for order_id in orders.changed if order_id not in orders.born]
    if known:
        await connection.execute(_SQL["write"], *columns(known, OrderRow.__slots__))
    born = [orders.rows[order_id] for order_id in orders.changed if order_id in orders.born]
    await insert(connection, "orders", born, _SQL["write"])
    items = [item for added in orders.items.values() for item in added]
    await insert(connection, "order_items", items, _SQL["write_items"])


def _depends_on(happened: Happened) -> Collection[str]:
    event = happened.event
    return (str(event.order_id),) if isinstance(event, ShipmentCreated) else ()


ORDERS = Projection(
    name="orders",
    version=1,
    tables=_SQL["tables"],
    events=(OrderCreated, OrderItemAdded, OrderCompleted, OrderDeleted, ShipmentCreated, ShipmentCompleted),
    apply=_apply,
    depends_on=_depends_on,
)
