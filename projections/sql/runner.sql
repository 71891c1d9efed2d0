-- name: register
-- Make a projection known, at the beginning of all events. $1 name, $2 version.
with known as (
  insert into waybill.projections (projection_name, version) values ($1, $2) on conflict do nothing
)
insert into projection_versions (projection_name) values ($1) on conflict do nothing;

-- name: acquire
-- Own a projection that nobody owns, or whose owner's lease has run out; no row if it isn't registered.
-- Nobody waits for a row that is locked: its owner is at work. $1 name, $2 owner, $3 lease.
with free as (
  select projection_name from waybill.projections
  where projection_name = $1 and (owner is null or owner = $2 or lease_until <= clock_timestamp())
  for update skip locked
), acquired as (
  update waybill.projections as projection set owner = $2, lease_until = clock_timestamp() + $3::interval
  from free
  where projection.projection_name = free.projection_name
  returning true
)
select exists (select from acquired) as acquired, lease_until - clock_timestamp() as lease_left
from waybill.projections
join projection_versions using (projection_name)
where projection_name = $1;

-- name: checkpoint
-- The position up to which a projection has seen the events.
select last_seen_event_number from projection_versions where projection_name = $1;

-- name: renew
-- Own a projection for another lease; no row if it is another's by now, or its checkpoint isn't $4 any more.
-- $1 name, $2 owner, $3 lease.
update waybill.projections as projection set lease_until = clock_timestamp() + $3::interval
from projection_versions as checkpoint
where projection.projection_name = $1 and owner = $2
  and checkpoint.projection_name = $1 and last_seen_event_number = $4
returning true;

-- name: advance
-- Move the checkpoint from $4 to $5 and tell who waits for it; no row if the projection is another's by now, or its
-- checkpoint isn't $4 any more. It comes first in a batch's transaction, so that from here on nobody else can become
-- the owner until the rows are committed. $1 name, $2 owner, $3 lease.
with mine as (
  update waybill.projections set lease_until = clock_timestamp() + $3::interval
  where projection_name = $1 and owner = $2
  returning projection_name
), moved as (
  update projection_versions as checkpoint set last_seen_event_number = $5::bigint, updated_at = now()
  from mine
  where checkpoint.projection_name = mine.projection_name and last_seen_event_number = $4
  returning checkpoint.projection_name
)
select pg_notify('waybill_projections', projection_name || ',' || $5::bigint) from moved;

-- name: release
-- Give a projection back, so that another takes over at once. $1 name, $2 owner.
update waybill.projections set owner = null, lease_until = null where projection_name = $1 and owner = $2;
