-- name: touched
-- The orders that a batch may change: $1 by their own ids, $2 by those of their shipments.
select id, order_number, business_partner, status, version, shipment_id, shipment_version, position,
  inserted_at, updated_at
from orders
where id = any ($1::uuid[]) or shipment_id = any ($2::uuid[]);

-- name: lines
-- How many items the orders $1 have.
select order_id, max(line) + 1 as lines
from order_items
where order_id = any ($1::uuid[])
group by order_id;

-- name: remove_items
-- Remove the items of the orders $1.
delete from order_items where order_id = any ($1::uuid[]);

-- name: remove
-- Remove the orders $1.
delete from orders where id = any ($1::uuid[]);

-- name: write
-- Insert or replace orders.
insert into orders (id, order_number, business_partner, status, version, shipment_id, shipment_version, position,
  inserted_at, updated_at)
select *
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::uuid[], $7::bigint[], $8::bigint[],
  $9::timestamptz[], $10::timestamptz[])
on conflict (id) do update
set order_number = excluded.order_number, business_partner = excluded.business_partner, status = excluded.status,
  version = excluded.version, shipment_id = excluded.shipment_id, shipment_version = excluded.shipment_version,
  position = excluded.position, inserted_at = excluded.inserted_at, updated_at = excluded.updated_at;

-- name: write_items
-- Insert items.
insert into order_items (id, order_id, line, product_id, quantity, uom, inserted_at, updated_at)
select *
from unnest($1::uuid[], $2::uuid[], $3::int[], $4::uuid[], $5::numeric[], $6::text[], $7::timestamptz[],
  $8::timestamptz[]);
