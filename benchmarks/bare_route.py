"""What one would write first to show an order: FastAPI and asyncpg, one route, a model that says what the answer is.

`python -m benchmarks.bare_route URL PORT POOL_SIZE`
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from eventstore.pool import open_pool

_ORDER = """
    select o.*, i.product_id, i.quantity, i.uom
    from orders o left join order_items i on i.order_id = o.id
    where o.id = $1
    order by i.line
"""


class Item(BaseModel):
    product_id: UUID
    quantity: float
    uom: str


class Order(BaseModel):
    id: UUID
    order_number: str
    business_partner: str
    status: str
    version: int
    items: list[Item]
    shipment_id: UUID | None
    created_at: datetime
    updated_at: datetime


def create_app(url: str, pool_size: int) -> FastAPI:
    pool: Any = None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        nonlocal pool
        # With asyncpg's own pool every question is two: it also resets the session.
        async with open_pool(url, pool_size) as pool:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/orders/{order_id}")
    async def read_order(order_id: UUID) -> Order:  # pyright: ignore[reportUnusedFunction]
        rows = await pool.fetch(_ORDER, order_id)
        if not rows:
            raise HTTPException(404)
        order = rows[0]
        return Order(
            id=order["id"],
            order_number=order["order_number"],
            business_partner=order["business_partner"],
            status=order["status"],
            version=order["version"],
            items=[Item(product_id=row["product_id"], quantity=row["quantity"], uom=row["uom"]) for row in rows],
            shipment_id=order["shipment_id"],
            created_at=order["inserted_at"],
            updated_at=order["updated_at"],
        )

    return app


if __name__ == "__main__":
    url, port, pool_size = sys.argv[1:]
    uvicorn.run(
        create_app(url, int(pool_size)),
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        server_header=False,
        log_config=None,
    )
