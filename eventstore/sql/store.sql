-- name: append
-- Append a batch in one transaction: each append with its own outcome (see the function's comment).
select outcome, first_version, first_position, created_at
from waybill.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16);

-- name: append_one
-- Append one event, without claims, in a transaction of its own (see the function's comment).
select outcome, first_version, first_position, created_at from waybill.append_one($1, $2, $3, $4, $5, $6, $7, $8);

-- name: load
-- What a command needs: the stream, its snapshot, the events after it, and the event that this command made before.
with stream as (
  select stream_id, stream_uuid, stream_version, deleted_at from public.streams where stream_uuid = $1
), snapshot as (
  select snapshots.* from public.snapshots join stream on source_uuid = stream_uuid
), wanted as (
  select 'event' as kind, here.event_id, here.stream_version as number, here.original_stream_id, stream.stream_id,
    stream.stream_uuid, here.original_stream_version as version
  from stream
  join public.stream_events as here using (stream_id)
  where here.stream_version > coalesce((select source_version from snapshot), 0)
  union all
  select 'repeated', own.event_id, own.stream_version, own.stream_id, own.stream_id, streams.stream_uuid,
    own.stream_version
  from public.stream_events as own
  join public.streams using (stream_id)
  where own.event_id = $2 and own.stream_id = own.original_stream_id
)
select 'stream' as kind, null::uuid as event_id, stream_version as number, null::bigint as position,
  stream_uuid, null::bigint as version, null::text as type, null::bytea as data, null::bytea as metadata,
  null::uuid as causation_id, null::uuid as correlation_id, deleted_at as created_at
from stream
union all
select 'snapshot', null, source_version, null, source_uuid, null, source_type, data, metadata, null, null, created_at
from snapshot
union all
select kind, event_id, number, global.stream_version,
  -- Only a link has to look for its origin.
  case
    when wanted.stream_id = wanted.original_stream_id then wanted.stream_uuid
    else (select stream_uuid from public.streams where streams.stream_id = wanted.original_stream_id)
  end,
  wanted.version, event_type, data, metadata, causation_id, correlation_id, created_at
from wanted
join public.events using (event_id)
join public.stream_events as global using (event_id)
where global.stream_id = 0
order by kind, number;

-- name: read_forward
-- Events of one stream after a number, in its order. $1 stream, $2 after, $3 limit.
select event_id, here.stream_version as number, global.stream_version as position, original.stream_uuid,
  here.original_stream_version as version, event_type as type, data, metadata, causation_id, correlation_id,
  events.created_at
from public.streams as stream
join public.stream_events as here using (stream_id)
join public.events using (event_id)
join public.stream_events as global using (event_id)
join public.streams as original on original.stream_id = here.original_stream_id
where stream.stream_uuid = $1 and stream.deleted_at is null and here.stream_version > $2 and global.stream_id = 0
order by here.stream_version
limit $3;

-- name: read_backward
-- Events of one stream before a number, the newest first; before 0 means from its end. $1 stream, $2 before, $3 limit.
select event_id, here.stream_version as number, global.stream_version as position, original.stream_uuid,
  here.original_stream_version as version, event_type as type, data, metadata, causation_id, correlation_id,
  events.created_at
from public.streams as stream
join public.stream_events as here using (stream_id)
join public.events using (event_id)
join public.stream_events as global using (event_id)
join public.streams as original on original.stream_id = here.original_stream_id
where stream.stream_uuid = $1 and stream.deleted_at is null and ($2::bigint = 0 or here.stream_version < $2)
  and global.stream_id = 0
order by here.stream_version desc
limit $3;

-- name: read_all
-- Events of the global sequence after a position. $1 after, $2 the last position, $3 limit.
select event_id, here.stream_version as number, here.stream_version as position, original.stream_uuid,
  here.original_stream_version as version, event_type as type, data, metadata, causation_id, correlation_id,
  events.created_at
from public.stream_events as here
join public.events using (event_id)
join public.streams as original on original.stream_id = here.original_stream_id
where here.stream_id = 0 and here.stream_version > $1 and here.stream_version <= $2
order by here.stream_version
limit $3;

-- name: read_all_of_types
-- Events of the global sequence after a position, of the types $4 only, and those of none of the types $5 in streams
-- whose first event is of one of the categories $6. $1 after, $2 the last position, $3 limit.
select event_id, here.stream_version as number, here.stream_version as position, original.stream_uuid,
  here.original_stream_version as version, event_type as type, data, metadata, causation_id, correlation_id,
  events.created_at
from public.stream_events as here
join public.events using (event_id)
join public.streams as original on original.stream_id = here.original_stream_id
where here.stream_id = 0 and here.stream_version > $1 and here.stream_version <= $2
  and (event_type = any ($4) or cardinality($6::text[]) > 0 and event_type <> all ($5) and (
    select split_part(first.event_type, '.', 1) = any ($6)
    from public.stream_events as own
    join public.events as first using (event_id)
    where own.stream_id = here.original_stream_id
    order by own.stream_version
    limit 1
  ))
order by here.stream_version
limit $3;

-- name: stream
-- Where a stream stands.
select stream_uuid, stream_id, stream_version, created_at, deleted_at from public.streams where stream_uuid = $1;

-- name: list_streams
-- The streams in the order of their creation. $1 after this stream_id, $2 limit.
select stream_uuid, stream_id, stream_version, created_at, deleted_at
from public.streams
where stream_id > greatest($1::bigint, 0)
order by stream_id
limit $2;

-- name: writable
-- Whether this is no standby.
select current_setting('transaction_read_only') = 'off';

-- name: link
-- Link events into a stream (see the function's comment). $1 stream, $2 expected version, $3 event ids.
select outcome, version, links, unknown_id from waybill.link($1, $2, $3);

-- name: delete_stream
-- Close a stream. $1 stream, $2 expected version.
select outcome, version from waybill.delete_stream($1, $2);

-- name: purge_stream
-- Remove a stream for good. $1 stream, $2 expected version.
select outcome, version from waybill.purge_stream($1, $2);

-- name: record_snapshot
-- Keep a snapshot, unless a newer one is there. One that is ahead of its stream is of another stream of that name.
-- Locked, for a stream that is just being removed would leave the snapshot behind. And for share, not for key share: if
-- the stream could grow until the snapshot is written, a newer one would look as if it were ahead.
with stream as materialized (
  select stream_uuid, stream_version from public.streams where stream_uuid = $1 for share
)
insert into public.snapshots as held (source_uuid, source_version, source_type, data, metadata)
select stream_uuid, $2, $3, $4, $5 from stream
on conflict (source_uuid) do update
set source_version = excluded.source_version, source_type = excluded.source_type, data = excluded.data,
  metadata = excluded.metadata, created_at = now()
where held.source_version < excluded.source_version
  or held.source_version > (select stream_version from stream);

-- name: subscription
-- The number of a subscription. $1 stream, $2 name.
select subscription_id from public.subscriptions where stream_uuid = $1 and subscription_name = $2;

-- name: nothing_is_purged
-- Until the end of the transaction: who purges streams, once all have seen them end, shares this lock (below).
select pg_advisory_xact_lock(hashtextextended('waybill.subscriptions', 0));

-- name: no_subscription_begins
-- Until the end of the transaction. Who enters one takes this lock alone (above).
select pg_advisory_xact_lock_shared(hashtextextended('waybill.subscriptions', 0));

-- name: subscribe
-- Enter a subscription, or find it. $1 stream, $2 name, $3 the number to start after, null for the stream's end.
-- No row: somebody has entered it at the same time, ask again.
with known as (
  select subscription_id from public.subscriptions where stream_uuid = $1 and subscription_name = $2
), entered as (
  insert into public.subscriptions (stream_uuid, subscription_name, last_seen)
  select $1, $2, coalesce($3::bigint, (select stream_version from public.streams where stream_uuid = $1), 0)
  where not exists (select from known)
  on conflict do nothing
  returning subscription_id
)
select subscription_id from known union all select subscription_id from entered;

-- name: own
-- Try to become the owner of a subscription, for as long as this session lasts. The key is that of the original.
select pg_try_advisory_lock('public.subscriptions'::regclass::oid::int, ($1::bigint % 2147483647)::int);

-- name: displace
-- End the session that owns subscription $1 but has said nothing for $2, and waits for its client: its process was
-- stopped, or is cut off. Only of those that speak all the time while they live. Sessions of another login are left alone.
select pg_terminate_backend(pid)
from pg_locks
join pg_stat_activity as session using (pid)
where locktype = 'advisory' and granted and classid = 'public.subscriptions'::regclass
  and objid = ($1::bigint % 2147483647)::oid
  and database = (select oid from pg_database where datname = current_database())
  and application_name = 'waybill owner' and usename = current_user
  and wait_event_type = 'Client' and state_change <= clock_timestamp() - $2::interval;

-- name: sign_of_life
-- Says that the session's process goes on.
select;

-- name: checkpoint
-- Where a subscription stands.
select coalesce(last_seen, 0) from public.subscriptions where subscription_id = $1;

-- name: advance
-- Move a checkpoint, if it is where its owner has seen it last. $1 subscription, $2 last seen, $3 its new place.
update public.subscriptions set last_seen = $3 where subscription_id = $1 and coalesce(last_seen, 0) = $2 returning 1;

-- name: reserve
-- Claim a business key until the lease is over. $1 kind, $2 key, $3 owner, $4 command, $5 lease.
select waybill.reserve($1, $2, $3, $4, $5);

-- name: release
-- Give back what a command has reserved, unless an append has confirmed it. $1 kind, $2 key, $3 owner, $4 command.
delete from waybill.claims
where kind = $1 and key = $2 and owner = $3 and command_id = $4 and lease_until is not null
returning 1;

-- name: claim_owner
-- Who holds a business key for good.
select owner from waybill.claims where kind = $1 and key = $2 and lease_until is null;

-- name: events_by_id
-- Events by their ids $1, wherever they are, in the order of the global sequence.
select event_id, own.stream_version as number, global.stream_version as position, original.stream_uuid,
  own.stream_version as version, event_type as type, data, metadata, causation_id, correlation_id, events.created_at
from public.events
join public.stream_events as own using (event_id)
join public.stream_events as global using (event_id)
join public.streams as original on original.stream_id = own.stream_id
where event_id = any ($1) and own.stream_id = own.original_stream_id and global.stream_id = 0
order by global.stream_version;

-- name: recall
-- The outcome that was kept for the command $1, and the event $2: one row, with nulls for what there isn't.
select answer.command_id, answer.fingerprint, answer.outcome, event.*
from (select) as one
left join waybill.answers as answer on answer.command_id = $1
left join (
  select event_id, own.stream_version as number, global.stream_version as position, original.stream_uuid,
    own.stream_version as version, event_type as type, data, metadata, causation_id, correlation_id, events.created_at
  from public.events
  join public.stream_events as own using (event_id)
  join public.stream_events as global using (event_id)
  join public.streams as original on original.stream_id = own.stream_id
  where own.stream_id = own.original_stream_id and global.stream_id = 0
) as event on event.event_id = $2;

-- name: remember
-- Keep the outcome of a command, the first one for good; gives the one that is kept.
-- No row: another one came at the same time, ask again.
with kept as (
  insert into waybill.answers (command_id, fingerprint, outcome) values ($1, $2, $3)
  on conflict (command_id) do nothing
  returning command_id, fingerprint, outcome
)
select command_id, fingerprint, outcome from kept
union all
select command_id, fingerprint, outcome from waybill.answers where command_id = $1;

-- name: blocked_products
-- Products that must not be sold; with $1 only those among them.
select product_id, blocked_at from waybill.blocked_products
where $1::uuid[] is null or product_id = any ($1)
order by product_id;

-- name: kept_products
-- How far an order's products are kept, and which of them must not be sold: asked of each that is blocked, as there are
-- few, and not of each that the order has.
select kept.version, array(
  select product_id from waybill.blocked_products as blocked
  where (
    select true from waybill.order_products as its
    where its.stream_id = kept.stream_id and its.product_id = blocked.product_id
  )
  order by product_id
)
from public.streams
join waybill.products_kept as kept using (stream_id)
where stream_uuid = $1;

-- name: keep_products
-- Keep more products of an order. $1 stream, $2 products, $3 kept up to this version, 0 for nothing, $4 up to this one.
with kept as (
  insert into waybill.products_kept as held (stream_id, version)
  select stream_id, $4
  from public.streams
  where stream_uuid = $1 and ($3::bigint = 0 or exists (
    select from waybill.products_kept as known where known.stream_id = streams.stream_id
  ))
  on conflict (stream_id) do update set version = excluded.version where held.version = $3
  returning stream_id
)
insert into waybill.order_products (stream_id, product_id)
select distinct stream_id, product_id from kept cross join unnest($2::uuid[]) as product_id
on conflict do nothing;

-- name: block_product
-- Block a product; returns a row if that is news. With an answer to keep ($2 to $4), only if none is kept yet.
with kept as (
  insert into waybill.answers (command_id, fingerprint, outcome)
  select $2, $3, $4 where $2::uuid is not null
  on conflict (command_id) do nothing
  returning 1
)
insert into waybill.blocked_products (product_id)
select $1 where $2 is null or exists (select from kept)
on conflict do nothing
returning 1;

-- name: unblock_product
-- Unblock a product; returns a row if it was blocked. With an answer to keep ($2 to $4), only if none is kept yet.
with kept as (
  insert into waybill.answers (command_id, fingerprint, outcome)
  select $2, $3, $4 where $2::uuid is not null
  on conflict (command_id) do nothing
  returning 1
)
delete from waybill.blocked_products
where product_id = $1 and ($2 is null or exists (select from kept))
returning 1;
