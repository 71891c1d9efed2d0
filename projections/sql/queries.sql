-- name: order
-- One order with its items, a row each in the order of their lines; an order without items is one row.
select o.id, o.order_number, o.business_partner, o.status, o.version, o.shipment_id, o.shipment_version, o.position,
  o.inserted_at, o.updated_at, i.product_id, i.quantity, i.uom
from orders o
left join order_items i on i.order_id = o.id
where o.id = $1
order by i.line;

-- name: shipment_of
-- The shipment of an order.
select shipment_id from orders where id = $1;

-- name: orders
-- Newest first, those before the position $1. $2 status, $3 business partner: null is any. $4 limit.
-- One part is executed: which one shows before a row is read. Each asks for an order that one index alone has, so that
-- there is one plan for all values, frequent, rare or unknown: status >= $2 with (status, position) < ($2, $1) is
-- status = $2 with position < $1, but after an equality the planner would take the index of positions for as good.
select id, order_number, business_partner, status, version, shipment_id, shipment_version, position, inserted_at, updated_at
from (
  (select * from orders
   where $2::text is null and $3::text is null and position < $1
   order by position desc limit $4)
  union all
  (select * from orders
   where $3::text is null and (status, position) < ($2, $1) and status >= $2
   order by status desc, position desc limit $4)
  union all
  (select * from orders
   where $2::text is null and (business_partner, position) < ($3, $1) and business_partner >= $3
   order by business_partner desc, position desc limit $4)
  union all
  (select * from orders
   where (business_partner, status, position) < ($3, $2, $1) and (business_partner, status) >= ($3, $2)
   order by business_partner desc, status desc, position desc limit $4)
) as page
order by position desc;

-- name: orders_by_number
-- Likewise. No two orders have the same number, but adopted ones may. $1 before, $2 status, $3 business partner,
-- $4 limit, $5 order number, $6 product.
select id, order_number, business_partner, status, version, shipment_id, shipment_version, position, inserted_at, updated_at
from (select * from orders where order_number = $5 offset 0) as o
where position < $1
  and ($2::text is null or status = $2)
  and ($3::text is null or business_partner = $3)
  and ($6::uuid is null or exists (select from order_items as i where i.order_id = o.id and i.product_id = $6))
order by position desc
limit $4;

-- name: orders_with_product
-- Likewise, orders with an item of the product $5. A product of few orders leads to them. For one of many, the orders
-- are looked through, newest first, but no more than 5000 of them for one page: if these don't fill it, the last one
-- comes too, and does not match; the next page begins there.
-- The parts of `found` are executed one after the other, and no further than to its limit. What is lateral is looked up
-- by key, row by row, however many rows the planner expects.
with candidates as (
  (select * from orders
   where $2::text is null and $3::text is null and position < $1
   order by position desc limit 5000)
  union all
  (select * from orders
   where $3::text is null and (status, position) < ($2, $1) and status >= $2
   order by status desc, position desc limit 5000)
  union all
  (select * from orders
   where $2::text is null and (business_partner, position) < ($3, $1) and business_partner >= $3
   order by business_partner desc, position desc limit 5000)
  union all
  (select * from orders
   where (business_partner, status, position) < ($3, $2, $1) and (business_partner, status) >= ($3, $2)
   order by business_partner desc, status desc, position desc limit 5000)
), its_items as materialized (
  select order_id from order_items where product_id = $5 limit 2001
), its_orders as (
  select count(*) <= 2000 as few from its_items
), found as (
  (select orders.*, true as matches
   from (select distinct order_id from its_items) as its
   cross join lateral (select * from orders where id = its.order_id offset 0) as orders
   where (select few from its_orders)
     and position < $1
     and ($2::text is null or status = $2)
     and ($3::text is null or business_partner = $3)
   order by position desc
   limit $4)
  union all
  (select candidates.*, true
   from candidates
   cross join lateral (
     select from order_items where product_id = $5 and order_id = candidates.id limit 1
   ) as item
   where not (select few from its_orders))
  union all
  (select candidates.*, false from candidates where not (select few from its_orders) offset 4999)
  limit $4
)
select id, order_number, business_partner, status, version, shipment_id, shipment_version, position, inserted_at, updated_at,
  matches
from found
order by position desc;

-- name: shipment
select id, order_id, status, version, position, inserted_at, updated_at
from shipments
where id = $1;

-- name: shipments
-- Newest first, those before the position $1. $2 status, null is any. $3 limit. In parts, like the orders.
select id, order_id, status, version, position, inserted_at, updated_at
from (
  (select * from shipments
   where $2::text is null and position < $1
   order by position desc limit $3)
  union all
  (select * from shipments
   where (status, position) < ($2, $1) and status >= $2
   order by status desc, position desc limit $3)
) as page
order by position desc;

-- name: shipments_of_order
-- Likewise. An order has one shipment, but adopted ones may have more. $1 before, $2 status, $3 limit, $4 order.
select id, order_id, status, version, position, inserted_at, updated_at
from (select * from shipments where order_id = $4 offset 0) as its
where position < $1 and ($2::text is null or status = $2)
order by position desc
limit $3;

-- name: positions
-- How far in the global sequence the rows of these versions have come. $1 projections, $2 the version of each.
select projection, last_seen_event_number
from unnest($1::text[], $2::int[]) as wanted (projection, version)
join waybill.projections using (projection, version)
join public.projection_versions using (projection_name)
where stage in ('live', 'retired');
