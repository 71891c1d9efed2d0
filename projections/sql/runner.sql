-- name: acquire
-- Own a build that nobody owns, or whose owner's lease has run out; no row if it isn't there any more.
-- Nobody waits for a row that is locked: its owner is at work. $1 build, $2 version, $3 owner, $4 lease.
with free as (
  select projection_name from waybill.projections
  where projection_name = $1 and version = $2 and (owner is null or owner = $3 or lease_until <= clock_timestamp())
  for update skip locked
), acquired as (
  update waybill.projections as projection set owner = $3, lease_until = clock_timestamp() + $4::interval
  from free
  where projection.projection_name = free.projection_name
  returning true
)
select exists (select from acquired) as acquired, lease_until - clock_timestamp() as lease_left
from waybill.projections
where projection_name = $1 and version = $2;

-- name: displace
-- End the session that holds build $1's row although the lease ran out $2 ago: its process was stopped in the middle of a
-- transaction. Either the session waits for it (in a COPY no timeout of PostgreSQL's ends that), or it works on a
-- statement for longer than $3, when a process that lives gives up. Who holds the row is who has the lock of the
-- transaction that changed it last. A session of another login is out of sight, and not ended.
select pg_terminate_backend(pid)
from waybill.projections
join pg_locks on locktype = 'transactionid' and transactionid = projections.xmax and granted
join pg_stat_activity as session using (pid)
where projection_name = $1 and lease_until <= clock_timestamp() - $2::interval and pid <> pg_backend_pid()
  and application_name = 'waybill' and state <> 'idle'
  -- Between two statements every session waits for its client, for a moment.
  and (wait_event_type = 'Client' and state_change <= clock_timestamp() - $2::interval
    or query_start <= clock_timestamp() - $3::interval);

-- name: look_in
-- From here on, names without a schema are looked up in schema $1.
select set_config('search_path', $1, false);

-- name: checkpoint
-- The position up to which the build $1 has seen the events. Who removes the row has it begin anew.
with known as (
  insert into public.projection_versions (projection_name)
  select projection_name from waybill.projections where projection_name = $1
  on conflict do nothing
)
select coalesce((select last_seen_event_number from public.projection_versions where projection_name = $1), 0);

-- name: renew
-- Own a build for another lease; no row if it is another's by now, or its checkpoint isn't $4 any more.
-- $1 build, $2 owner, $3 lease, $5 events a second.
update waybill.projections as projection set lease_until = clock_timestamp() + $3::interval, rate = $5
from public.projection_versions as checkpoint
where projection.projection_name = $1 and owner = $2
  and checkpoint.projection_name = $1 and last_seen_event_number = $4
returning true;

-- name: advance
-- Move the checkpoint from $4 to $6 and tell who waits for it; no row if the build is another's by now, or its
-- checkpoint isn't $4 any more. It comes first in a batch's transaction, so that from here on nobody else can become
-- the owner until the rows are committed. Of the next build nobody is told: its rows can't be seen yet.
-- $1 build, $2 owner, $3 lease, $5 events a second.
with mine as (
  update waybill.projections set lease_until = clock_timestamp() + $3::interval, rate = $5
  where projection_name = $1 and owner = $2
  returning projection_name, projection, version, stage
), moved as (
  update public.projection_versions as checkpoint set last_seen_event_number = $6::bigint, updated_at = now()
  from mine
  where checkpoint.projection_name = mine.projection_name and last_seen_event_number = $4
  returning projection, version, stage
)
select case when stage <> 'next' then
  pg_notify('waybill_projections', projection || ',' || version || ',' || $6::bigint)
end
from moved;

-- name: release
-- Give up what $2 owns of projection $1, so that another takes over at once.
update waybill.projections set owner = null, lease_until = clock_timestamp() where projection = $1 and owner = $2;

-- name: discarded
-- The events that were given up for the build $1.
select position from waybill.parked where subscriber = $1 and state = 'discarded';

-- name: marked
-- Whether parked events of the build $1 are to be looked at now, and how many were given up.
select exists (select from waybill.parked where subscriber = $1 and state = 'retry') as to_retry,
  (select count(*) from waybill.parked where subscriber = $1 and state = 'discarded') as discarded;

-- name: known_now
-- Let events be looked at that were parked because their type wasn't known. $1 build, $2 that reason, $3 types known now.
update waybill.parked set state = 'retry', retry_at = null
where subscriber = $1 and state = 'failed' and reason = $2 and event_type = any ($3);
