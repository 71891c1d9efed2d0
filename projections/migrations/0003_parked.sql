-- Events that a projection could not apply, and those of the same streams that came after them.
-- The event store has the same table for its handlers; where both stores are one database, it is one table.
create table if not exists waybill.parked (
  subscriber text not null,
  position bigint not null,
  stream_id text not null,
  event_id uuid not null,
  event_type text not null,
  state text not null check (state in ('failed', 'behind', 'retry', 'waiting', 'discarded')),
  reason text not null,
  attempts int not null,
  retry_at timestamptz,
  parked_at timestamptz not null default now(),
  discarded_at timestamptz,
  primary key (subscriber, position)
);
create index if not exists parked_stream on waybill.parked (subscriber, stream_id, position);
comment on column waybill.parked.subscriber is 'a handler, or the build of a projection';
comment on column waybill.parked.state is
  'failed: it is looked at again when somebody says so, or at retry_at; behind: an earlier event holds it up; retry: '
  'it is to be looked at now; waiting: it is too early for it; discarded: it was given up, and holds up nothing';
comment on column waybill.parked.retry_at is 'null: when somebody says so';
