-- name: counts
-- What there is to look at.
select
  (select count(*) from public.events) as events,
  (select count(*) from public.streams where stream_id <> 0) as streams,
  (select count(*) from public.stream_events where stream_id <> original_stream_id and stream_id <> 0) as links,
  (select count(*) from public.snapshots) as snapshots;

-- name: holes
-- Numbers that are missing in a stream, or in the global sequence, and that no purge has left. The row after the last
-- stands for where the stream says that it is; if there are more, `last` is that and `first` the number after it.
with numbered as (
  select stream_id, stream_version from public.stream_events
  union all
  select stream_id, stream_version + 1 from public.streams
), step as (
  select stream_id, stream_version as next,
    lag(stream_version, 1, 0::bigint) over (partition by stream_id order by stream_version) as last
  from numbered
)
select stream_uuid, missing.first, missing.last
from step
join public.streams using (stream_id)
cross join lateral (
  select lower(hole) as first, upper(hole) - 1 as last
  from unnest(
    int8multirange(int8range(step.last + 1, greatest(step.next, step.last + 1)))
    - coalesce((select range_agg(versions) from waybill.gaps where gaps.stream_id = step.stream_id), '{}')
  ) as hole
  union all
  select step.next, step.next - 1 where step.next <= step.last
) as missing
where step.next <> step.last + 1
order by stream_id, missing.first;

-- name: misplaced
-- Events that aren't in the global sequence and in one stream of their own, both saying the same.
select event_id, event_type
from public.events
join public.stream_events as global using (event_id)
join public.stream_events as own using (event_id)
where global.stream_id = 0 and own.stream_id = own.original_stream_id
  and (own.stream_id, own.stream_version)
    is distinct from (global.original_stream_id, global.original_stream_version)
union
select event_id, event_type
from public.events
where not exists (select from public.stream_events as global where global.event_id = events.event_id and stream_id = 0)
  or not exists (
    select from public.stream_events as own
    where own.event_id = events.event_id and stream_id = original_stream_id and stream_id <> 0
  );

-- name: closed_streams
-- Streams that were deleted softly. There are few: no index is needed.
select stream_uuid, deleted_at from public.streams where deleted_at is not null order by stream_id;

-- name: stray_snapshots
-- Snapshots of a version that their stream hasn't come to.
select source_uuid, source_version, coalesce(stream_version, 0) as stream_version
from public.snapshots
left join public.streams on stream_uuid = source_uuid
where source_version > coalesce(stream_version, 0);

-- name: prepare
-- What the walk through the streams finds, to be asked about as a whole.
create temporary table audited_orders (
  id uuid, stream_uuid text, number text, status text, position bigint, completed_at timestamptz
) on commit drop;
create temporary table audited_shipments (
  id uuid, stream_uuid text, order_id uuid, status text, position bigint, derived boolean
) on commit drop;

-- name: walk
-- From here on, pages are read by key, however the planner thinks of tables that it doesn't know yet.
select set_config(name, 'off', true)
from unnest('{enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin}'::text[]) as name;

-- name: page
-- Events stream by stream, with the snapshot of that version. $1 stream and $2 version of the last one, $3 limit.
with own as materialized (
  select event_id, stream_id, stream_version as version from public.stream_events
  where (stream_id, stream_version) > ($1, $2) and stream_id = original_stream_id
  order by stream_id, stream_version
  limit $3
)
select own.stream_id, streams.stream_uuid, own.version, coalesce(global.stream_version, 0) as position,
  own.event_id, event_type as type, events.data, events.created_at,
  snapshots.source_type, snapshots.data as snapshot, snapshots.metadata as snapshot_metadata
from own
join public.streams on streams.stream_id = own.stream_id
join public.events on events.event_id = own.event_id
left join public.stream_events as global on global.event_id = own.event_id and global.stream_id = 0
left join public.snapshots on source_uuid = stream_uuid and source_version = own.version
order by own.stream_id, own.version;

-- name: walked
-- The walk is over: the planner is free again, and knows what was found.
select set_config(name, 'on', true)
from unnest('{enable_seqscan, enable_bitmapscan, enable_hashjoin, enable_mergejoin}'::text[]) as name;
analyze audited_orders, audited_shipments;

-- name: statuses
-- How many there are.
select 'orders' as what, status, count(*) from audited_orders group by status
union all
select 'shipments', status, count(*) from audited_shipments group by status
order by 1, 2;

-- name: namesakes
-- Streams that mean the same id.
select id, array_agg(stream_uuid order by position) as streams
from (
  select id, stream_uuid, position from audited_orders union all select id, stream_uuid, position from audited_shipments
) as audited
group by id
having count(*) > 1;

-- name: unshipped
-- Completed orders without a shipment; it may just be coming, for those that were completed a moment ago.
select id, position, completed_at, completed_at > clock_timestamp() - interval '5 seconds' as young
from audited_orders as completed
where status = 'COMPLETED'
  and not exists (select from audited_shipments as shipment where shipment.order_id = completed.id)
order by position;

-- name: shipments_astray
-- Shipments that an order has besides its first, and shipments of orders that aren't completed, or aren't at all.
select shipment.id, order_id, shipment.position, orders.status as order_status, nullif(first, shipment.id) as first
from (
  select *, first_value(id) over (partition by order_id order by position) as first from audited_shipments
) as shipment
left join audited_orders as orders on orders.id = order_id
where first <> shipment.id or orders.status is distinct from 'COMPLETED'
order by shipment.position;

-- name: idle_claims
-- Confirmed claims whose owner isn't there, or isn't entitled to them.
select held.kind, held.key, held.owner
from waybill.claims as held
where lease_until is null and not case kind
  when 'order_number' then exists (
    select from audited_orders as orders where id = held.owner and status <> 'DELETED' and number = held.key
  )
  when 'shipment' then exists (
    select from audited_shipments where id = held.owner and order_id::text = held.key
  )
  else true
end
order by kind, key;

-- name: unclaimed_numbers
-- Orders that live without a claim to their number, and who has it.
select orders.id, orders.number, orders.position, holder.id as holder, holder.position as holder_position
from audited_orders as orders
left join waybill.claims as held on held.kind = 'order_number' and held.key = orders.number and lease_until is null
left join audited_orders as holder
  on holder.id = held.owner and holder.status <> 'DELETED' and holder.number = orders.number
where orders.status <> 'DELETED' and orders.number is not null and held.owner is distinct from orders.id
order by orders.position;

-- name: unclaimed_shipments
-- First shipments of their orders whose id doesn't derive from the order's, and that no claim makes known.
select id, order_id, position
from (
  select *, row_number() over (partition by order_id order by position) as number from audited_shipments
) as shipment
left join waybill.claims as held on kind = 'shipment' and key = order_id::text and lease_until is null
where number = 1 and not derived and owner is distinct from id
order by position;

-- name: still_unshipped
-- Of these orders $1, with the streams $2 of the shipments that they get, those that haven't got them in the meantime.
select order_id
from unnest($1::uuid[], $2::text[]) as asked (order_id, stream_uuid)
where not exists (select from public.streams where streams.stream_uuid = asked.stream_uuid);

-- name: adoption
-- What was found when the database was adopted, and when that was.
select report, adopted_at from waybill.adoption;
