-- name: unshipped
-- Of the orders $1, those that have neither the shipment that they get, in the stream of $2 with the same index, nor one
-- that they were adopted with.
select order_id
from unnest($1::uuid[], $2::text[]) as asked (order_id, stream_uuid)
where not exists (select from public.streams where streams.stream_uuid = asked.stream_uuid)
  and not exists (
    select from waybill.claims where kind = 'shipment' and key = order_id::text and lease_until is null
  );

-- name: unseen
-- Who has yet to see an event of the streams $1, in whatever stream it is, or has parked one; but for the handler $2.
select own.stream_uuid, format('the subscription %s to %s', subscription_name, place.stream_uuid) as who
from public.streams as own
join public.stream_events as original on original.stream_id = own.stream_id and original.original_stream_id = own.stream_id
join public.stream_events as here on here.event_id = original.event_id
join public.streams as place on place.stream_id = here.stream_id
join public.subscriptions as subscription on subscription.stream_uuid = place.stream_uuid
where own.stream_uuid = any ($1) and coalesce(last_seen, 0) < here.stream_version
  and (subscription_name, place.stream_uuid) is distinct from ($2::text, '$all')
union all
select stream_id, subscriber from waybill.parked
where stream_id = any ($1) and subscriber <> $2 and state <> 'discarded';

-- name: no_build_begins
-- Until the end of the transaction: who begins one takes this lock alone (builds.sql).
select pg_advisory_xact_lock_shared(hashtextextended('waybill.builds', 0));

-- name: unprojected
-- Which projection has yet to see the positions $2 of the streams $1, or has parked one of their events.
select stream_uuid, format('the projection %s', projection_name) as who
from unnest($1::text[], $2::bigint[]) as asked (stream_uuid, position)
join public.projection_versions on last_seen_event_number < position
union all
select stream_id, format('the projection %s', subscriber) from waybill.parked
where stream_id = any ($1) and state <> 'discarded';

-- name: life
-- The events of a stream, also if it is closed.
select event_id, event_type as type
from public.streams
join public.stream_events as own using (stream_id)
join public.events using (event_id)
where stream_uuid = $1 and own.original_stream_id = own.stream_id
order by own.stream_version;

-- name: status
-- How far the handlers $1 have come, and by which session of the database they are owned. One that has said nothing for
-- $2, and waits for its client, is of a process that was stopped (see displace in store.sql).
select subscription_name as name, coalesce(last_seen, 0) as position,
  greatest(head.stream_version - coalesce(last_seen, 0), 0) as lag,
  coalesce(extract(epoch from clock_timestamp() - next.created_at), 0)::float8 as lag_seconds,
  case when not silent then pid end as owner_pid, host(client_addr) as owner_host
from public.subscriptions
join public.streams as head on head.stream_id = 0
left join lateral (
  select created_at
  from public.stream_events join public.events using (event_id)
  where stream_events.stream_id = 0 and stream_events.stream_version > coalesce(last_seen, 0)
  order by stream_events.stream_version
  limit 1
) as next on true
left join pg_locks on locktype = 'advisory' and granted and classid = 'public.subscriptions'::regclass
  and objid = (subscription_id % 2147483647)::oid
  and database = (select oid from pg_database where datname = current_database())
left join pg_stat_activity as session using (pid)
cross join lateral (
  select coalesce(
    application_name = 'waybill owner' and wait_event_type = 'Client' and state_change <= clock_timestamp() - $2::interval,
    false
  ) as silent
) as its
where subscriptions.stream_uuid = '$all' and subscription_name = any ($1)
order by subscription_id;
