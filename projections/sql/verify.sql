-- name: shadow
-- Empty tables of the same shape. They hide the real ones from statements that name no schema, as those of the
-- projections do.
create temporary table orders (like public.orders including all) on commit drop;
create temporary table order_items (like public.order_items including all) on commit drop;
create temporary table shipments (like public.shipments including all) on commit drop;

-- name: checkpoints
-- The position up to which each projection has seen the events.
select projection_name, last_seen_event_number from public.projection_versions;

-- name: orders
-- Rows that differ, are missing or too many, and how many there are in all; at most $1.
select coalesce(shown.id, folded.id)::text as id, to_jsonb(shown) as shown, to_jsonb(folded) as folded,
  count(*) over () as total
from public.orders as shown
full join pg_temp.orders as folded using (id)
where shown.* is distinct from folded.*
order by id
limit $1;

-- name: order_items
-- Likewise.
select coalesce(shown.id, folded.id)::text as id, to_jsonb(shown) as shown, to_jsonb(folded) as folded,
  count(*) over () as total
from public.order_items as shown
full join pg_temp.order_items as folded using (id)
where shown.* is distinct from folded.*
order by id
limit $1;

-- name: shipments
-- Likewise.
select coalesce(shown.id, folded.id)::text as id, to_jsonb(shown) as shown, to_jsonb(folded) as folded,
  count(*) over () as total
from public.shipments as shown
full join pg_temp.shipments as folded using (id)
where shown.* is distinct from folded.*
order by id
limit $1;
