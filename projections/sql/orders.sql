-- name: tables
create table orders (
  id uuid primary key,
  order_number text not null,
  business_partner text not null,
  status text not null check (status in ('OPEN', 'COMPLETED', 'SHIPPED')),
  version bigint not null,
  shipment_id uuid,
  shipment_version bigint,
  position bigint not null,
  inserted_at timestamptz not null,
  updated_at timestamptz not null
);
comment on column orders.version is 'The version of the order''s stream.';
comment on column orders.position is 'Where OrderCreated is in the global sequence: pages are sorted by it.';
create unique index ix_orders_position on orders (position);
create index ix_orders_status_position on orders (status, position);
create index ix_orders_business_partner_position on orders (business_partner, position);
create index ix_orders_business_partner_status_position on orders (business_partner, status, position);
create index ix_orders_order_number on orders (order_number);
-- The projection finds the order of a shipment that has gone out.
create index ix_orders_shipment_id on orders (shipment_id) where shipment_id is not null;

create table order_items (
  id uuid primary key,
  order_id uuid not null,
  line int not null,
  product_id uuid not null,
  quantity numeric not null,
  uom text not null,
  inserted_at timestamptz not null,
  updated_at timestamptz not null
);
comment on column order_items.line is 'From 0, in the order in which the items were added.';
create unique index ix_order_items_order_id_line on order_items (order_id, line);
create index ix_order_items_product_id_order_id on order_items (product_id, order_id);

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
