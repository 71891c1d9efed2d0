-- name: order
-- One order with its items, a row each in the order of their lines; an order without items is one row.
select o.id, o.order_number, o.business_partner, o.status, o.version, o.shipment_id, o.shipment_version, o.position,
  o.inserted_at, o.updated_at, i.product_id, i.quantity, i.uom
from orders o
left join order_items i on i.order_id = o.id
where o.id = $1
order by i.line;

-- name: orders
-- Newest first, those before a position only; a filter that is null is off.
select id, order_number, business_partner, status, version, shipment_id, shipment_version, position,
  inserted_at, updated_at
from orders o
where ($1::bigint is null or position < $1)
  and ($2::text is null or status = $2)
  and ($3::text is null or business_partner = $3)
  and ($4::text is null or order_number = $4)
  and ($5::uuid is null or exists (select from order_items i where i.order_id = o.id and i.product_id = $5))
order by position desc
limit $6;

-- name: shipment
select id, order_id, status, version, position, inserted_at, updated_at
from shipments
where id = $1;

-- name: shipments
-- Newest first, those before a position only; a filter that is null is off.
select id, order_id, status, version, position, inserted_at, updated_at
from shipments
where ($1::bigint is null or position < $1)
  and ($2::text is null or status = $2)
  and ($3::uuid is null or order_id = $3)
order by position desc
limit $4;

-- name: positions
-- How far in the global sequence the rows of these versions have come. $1 projections, $2 the version of each.
select projection, last_seen_event_number
from unnest($1::text[], $2::int[]) as wanted (projection, version)
join waybill.projections using (projection, version)
join public.projection_versions using (projection_name)
where stage in ('live', 'retired');
