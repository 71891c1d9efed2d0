"""A read store with as many orders as it takes for a bad plan to show, made by SQL in seconds."""

from typing import Any
from uuid import UUID

import asyncpg

HALF, THOUSANDTH, RARE, NOBODY = (f"{name}@example.com" for name in ("half", "thousandth", "rare", "nobody"))
"""Business partners of every second order, of every thousandth, of a few, of none."""

EVERY, OLD_HALF, TWO_THOUSANDTH, FEW, NONE = (UUID(int=product) for product in (1, 2, 3, 4, 5))
"""Products of every order, of every second one in the older half, of every 2000th, of a few, of none."""

_INDEXES = """
    select indexdef, format('drop index %I.%I', schemaname, indexname) as drop
    from pg_indexes join pg_class on oid = format('%I.%I', schemaname, indexname)::regclass
    where tablename in ('orders', 'order_items') and schemaname = 'public'
      and not exists (select from pg_constraint where conindid = pg_class.oid)
"""
# Ids ascend, as no real ones do: it is only how the rows come in that is quicker by it. The last few orders are open;
# of the others every third is shipped. Positions leave gaps for the other events.
_ORDERS = """
    insert into orders
    select lpad(to_hex(n), 32, '0')::uuid, 'SO-' || n,
      case
        when n % 2 = 0 then 'half@example.com'
        when n % 1000 = 1 then 'thousandth@example.com'
        when n % ($1 / 4) = 3 then 'rare@example.com'
        else 'p' || n % 5000 || '@example.com'
      end,
      case when n > $1 - 500 then 'OPEN' when n % 3 = 0 then 'SHIPPED' else 'COMPLETED' end,
      1, null, null, n * 4, now(), now()
    from generate_series(1, $1::int) as n
"""
_ITEMS = """
    insert into order_items
    select (lpad(to_hex(n), 31, '0') || line)::uuid, lpad(to_hex(n), 32, '0')::uuid, line, product, 1.5, 'KG', now(),
      now()
    from generate_series(1, $1::int) as n
    cross join lateral (
      values (0, lpad('1', 32, '0')::uuid), (1, case
        when n % ($1 / 4) = 7 then lpad('4', 32, '0')::uuid
        when n % 2000 = 9 then lpad('3', 32, '0')::uuid
        when n % 2 = 1 and n < $1 / 2 then lpad('2', 32, '0')::uuid
      end)
    ) as item (line, product)
    where product is not null
"""


async def fill(url: str, orders: int) -> None:
    """Make `orders` orders (a multiple of four) with one or two items in an empty read store."""
    connection: asyncpg.Connection[Any] = await asyncpg.connect(url, server_settings={"maintenance_work_mem": "256MB"})
    try:
        indexes = await connection.fetch(_INDEXES)
        for index in indexes:
            await connection.execute(index["drop"])
        # Nothing of it is to outlive a crash.
        await connection.execute("alter table orders set unlogged; alter table order_items set unlogged")
        await connection.execute(_ORDERS, orders)
        await connection.execute(_ITEMS, orders)
        for index in indexes:
            await connection.execute(index["indexdef"])
        await connection.execute("vacuum analyze orders")
        await connection.execute("vacuum analyze order_items")
    finally:
        await connection.close()
