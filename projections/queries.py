"""What can be asked of the read models.

Every question is one statement, so that what belongs together (an order and its items) is of one moment.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from uuid import UUID

from eventstore.pool import open_pool
from eventstore.statements import load_statements
from projections.builds import search_path
from projections.orders import OrderRow
from projections.projection import Projection
from projections.registry import PROJECTIONS
from projections.shipments import ShipmentRow

if TYPE_CHECKING:
    from eventstore.pool import Pool

_SQL = load_statements("projections", "queries.sql")
# No position is as large.
_BEYOND = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Item:
    """A line of an order."""

    product_id: UUID
    quantity: Decimal
    uom: str


R = TypeVar("R", OrderRow, ShipmentRow, Item)
L = TypeVar("L", OrderRow, ShipmentRow)


@dataclass(frozen=True, slots=True)
class Slice(Generic[L]):
    """A part of a list, newest first."""

    rows: Sequence[L]
    """As many as were asked for, or fewer: also where more follow, if what was looked through has few that match."""
    end: int | None
    """The position before which the list goes on; None if this was all."""


class ReadStore:
    """The read models, on a pool of connections of their own database."""

    def __init__(self, pool: "Pool", projections: Sequence[Projection] = PROJECTIONS) -> None:
        self._pool = pool
        self._names = [projection.name for projection in projections]
        self._versions = [projection.version for projection in projections]

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, pool_size: int = 10, projections: Sequence[Projection] = PROJECTIONS
    ) -> AsyncGenerator[Self]:
        """The rows that these versions of the projections have made."""
        # Each statement has one plan, for all values and tables of any size: along the one index that has its order.
        settings = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "enable_bitmapscan": "off"}
        async with open_pool(
            url, pool_size, search_path=search_path(projections), enable_incremental_sort="off", **settings
        ) as pool:
            yield cls(pool, projections)

    @property
    def pool(self) -> "Pool":
        """For what is kept beside the read models, in the same database."""
        return self._pool

    async def order(self, order_id: UUID) -> tuple[OrderRow, Sequence[Item]] | None:
        """The order and its items by line; None if there is none, or it was deleted."""
        rows = await self._pool.fetch(_SQL["order"], order_id)
        if not rows:
            return None
        items = [_of(Item, row) for row in rows if row["product_id"] is not None]
        return _of(OrderRow, rows[0]), items

    async def shipment_of(self, order_id: UUID) -> UUID | None:
        """The order's shipment; None if it has none, or there is no such order."""
        return await self._pool.fetchval(_SQL["shipment_of"], order_id)

    async def orders(
        self,
        *,
        before: int | None = None,
        status: str | None = None,
        business_partner: str | None = None,
        order_number: str | None = None,
        product_id: UUID | None = None,
        limit: int,
    ) -> Slice[OrderRow]:
        """At most `limit` orders, newest first, that began before the position `before` and match all filters.

        With a product, a slice may be short or even empty though more follow: so much is looked through and no more.
        """
        asked = (_before(before), status, business_partner, limit + 1)
        if order_number is not None:
            rows = await self._pool.fetch(_SQL["orders_by_number"], *asked, order_number, product_id)
        elif product_id is not None:
            rows = await self._pool.fetch(_SQL["orders_with_product"], *asked, product_id)
            if rows and not rows[-1]["matches"]:
                return Slice([_of(OrderRow, row) for row in rows[:-1]], rows[-1]["position"])
        else:
            rows = await self._pool.fetch(_SQL["orders"], *asked)
        return _slice(OrderRow, rows, limit)

    async def shipment(self, shipment_id: UUID) -> ShipmentRow | None:
        row = await self._pool.fetchrow(_SQL["shipment"], shipment_id)
        return _of(ShipmentRow, row) if row else None

    async def shipments(
        self,
        *,
        before: int | None = None,
        status: str | None = None,
        order_id: UUID | None = None,
        limit: int,
    ) -> Slice[ShipmentRow]:
        """At most `limit` shipments, newest first, that began before the position `before` and match all filters."""
        asked = (_before(before), status, limit + 1)
        if order_id is None:
            rows = await self._pool.fetch(_SQL["shipments"], *asked)
        else:
            rows = await self._pool.fetch(_SQL["shipments_of_order"], *asked, order_id)
        return _slice(ShipmentRow, rows, limit)

    async def positions(self) -> dict[str, int]:
        """The position in the global sequence that each projection has come to, if our version of it has rows yet."""
        rows = await self._pool.fetch(_SQL["positions"], self._names, self._versions)
        return {row["projection"]: row["last_seen_event_number"] for row in rows}


def _before(position: int | None) -> int:
    return _BEYOND if position is None else position


def _slice(kind: type[L], rows: Sequence[Any], limit: int) -> Slice[L]:
    """The rows as a slice; they are one more than `limit` if more follow."""
    shown = [_of(kind, row) for row in rows[:limit]]
    return Slice(shown, shown[-1].position if len(rows) > limit else None)


def _of(kind: type[R], row: Any) -> R:
    """The part of the row that is a `kind`."""
    return kind(*map(row.__getitem__, kind.__slots__))
