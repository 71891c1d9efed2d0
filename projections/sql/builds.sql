-- name: one_at_a_time
-- Whoever begins or ends a build is alone until the end of the transaction.
select pg_advisory_xact_lock(hashtextextended('waybill.builds', 0));

-- name: of_projection
-- The builds of projection $1, and whether each has an owner who lives.
select projection_name as key, projection, version, stage, tables, started_at,
  coalesce(owner is not null and lease_until > clock_timestamp(), false) as owned
from waybill.projections
where projection = $1;

-- name: serving
-- The build that has the rows of one version: the live one, or the one that was replaced by another version's.
-- $1 projection, $2 version.
select projection_name as key, projection, version, stage, tables, started_at,
  coalesce(owner is not null and lease_until > clock_timestamp(), false) as owned
from waybill.projections
where projection = $1 and version = $2 and stage in ('live', 'retired')
order by stage
limit 1;

-- name: become
-- From here on, names without a schema are looked up, and made, in schema $1. Until the end of the transaction.
select set_config('search_path', $1, true);

-- name: begin
-- A new build. $1 its name, $2 projection, $3 version, $4 stage, $5 tables, $6 owner or null, $7 lease.
insert into waybill.projections (projection_name, projection, version, stage, tables, owner, lease_until)
values ($1, $2, $3, $4, $5, $6, clock_timestamp() + $7::interval)
returning projection_name as key, projection, version, stage, tables, started_at, owner is not null as owned;

-- name: at_the_beginning
-- The build $1 has seen no event.
insert into public.projection_versions (projection_name) values ($1)
on conflict (projection_name) do update set last_seen_event_number = 0, inserted_at = now(), updated_at = now();

-- name: keep_discarded
-- What was discarded for the live build of projection $2 is so for the build $1.
insert into waybill.parked
  (subscriber, position, stream_id, event_id, event_type, state, reason, attempts, retry_at, parked_at,
   discarded_at)
select $1, position, stream_id, event_id, event_type, state, reason, attempts, retry_at, parked_at, discarded_at
from waybill.parked
where state = 'discarded'
  and subscriber = (select projection_name from waybill.projections where projection = $2 and stage = 'live');

-- name: carry_discarded
-- What was discarded for the build $2 since the build $1 was begun, and can't be applied to that one either. What was
-- discarded before has been kept, or was to be tried again.
update waybill.parked as mine set state = 'discarded', discarded_at = given_up.discarded_at
from waybill.parked as given_up, waybill.projections as build
where mine.subscriber = $1 and given_up.subscriber = $2 and given_up.position = mine.position
  and given_up.state = 'discarded' and build.projection_name = $1 and given_up.discarded_at >= build.started_at;

-- name: patience
-- Wait no longer than $1 for a lock, until the end of the transaction: whoever comes later waits as long.
select set_config('lock_timeout', $1, true);

-- name: hold_live
-- Keep the owner of projection $1's live build from going on, until the end of the transaction.
select projection_name from waybill.projections where projection = $1 and stage = 'live' for update;

-- name: position
-- How far build $1 has come. Where it is held, a statement of its own: one that waited for the lock sees what was before.
select last_seen_event_number from public.projection_versions where projection_name = $1;

-- name: rename
-- The build $1 is called $2 from here on, and is in stage $3.
with checkpoint as (
  update public.projection_versions set projection_name = $2 where projection_name = $1
), parked as (
  update waybill.parked set subscriber = $2 where subscriber = $1
)
update waybill.projections set projection_name = $2, stage = $3 where projection_name = $1;

-- name: tell
-- Tell who waits for it how far the live build of projection $1 is.
select pg_notify('waybill_projections', projection || ',' || version || ',' || last_seen_event_number)
from waybill.projections
join public.projection_versions using (projection_name)
where projection = $1 and stage = 'live';

-- name: unwanted
-- Builds of projection $1 that nobody will miss: those that nobody has owned for $2.
select projection_name as key, projection, version, stage, tables, started_at, false as owned
from waybill.projections
where projection = $1
  and (stage = 'leftover' or stage = 'retired' and coalesce(lease_until, started_at) < clock_timestamp() - $2::interval)
for update skip locked;

-- name: forget
-- There is no build $1 any more.
with checkpoint as (
  delete from public.projection_versions where projection_name = $1
), parked as (
  delete from waybill.parked where subscriber = $1
)
delete from waybill.projections where projection_name = $1;
