"""The read model of shipments. A batch is applied as a fold, as in orders.py."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from domain.shipment import ShipmentCompleted, ShipmentCreated
from eventstore.statements import load_statements
from projections.projection import Happened, Projection, columns

if TYPE_CHECKING:
    from projections.projection import Connection

_SQL = load_statements("projections", "shipments.sql")


@dataclass(slots=True)
class ShipmentRow:
    """A row of shipments."""

    id: UUID
    order_id: UUID
    status: str
    version: int
    position: int
    inserted_at: datetime
    updated_at: datetime


class Shipments:
    """The shipments that a batch touches: as they were, then event by event, as they are to be."""

    def __init__(self, rows: Iterable[ShipmentRow] = ()) -> None:
        self.rows = {row.id: row for row in rows}

    def evolve(self, happened: Happened) -> None:
        match happened.event:
            case ShipmentCreated(order_id=order_id):
                self.rows[happened.aggregate_id] = ShipmentRow(
                    id=happened.aggregate_id,
                    order_id=order_id,
                    status="OPEN",
                    version=happened.version,
                    position=happened.position,
                    inserted_at=happened.at,
                    updated_at=happened.at,
                )
            case ShipmentCompleted():
                # Adopted events may complete a shipment that never was.
                if row := self.rows.get(happened.aggregate_id):
                    row.status = "COMPLETED"
                    row.version = happened.version
                    row.updated_at = max(row.updated_at, happened.at)
            case _:
                pass


async def _apply(connection: "Connection", batch: Sequence[Happened]) -> None:
    rows = await connection.fetch(_SQL["touched"], {happened.aggregate_id for happened in batch})
    shipments = Shipments(ShipmentRow(*row.values()) for row in rows)
    for happened in batch:
        shipments.evolve(happened)
    if shipments.rows:
        await connection.execute(_SQL["write"], *columns(list(shipments.rows.values()), ShipmentRow.__slots__))


SHIPMENTS = Projection(
    name="shipments",
    version=1,
    tables=_SQL["tables"],
    events=(ShipmentCreated, ShipmentCompleted),
    apply=_apply,
)
