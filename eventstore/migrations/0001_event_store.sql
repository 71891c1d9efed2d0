-- Schema public: the layout of Elixir's EventStore, schema version 1.3.2, to the letter. Another program may share it.

create table public.streams (
  stream_id bigserial primary key,
  stream_uuid text not null,
  stream_version bigint not null default 0,
  created_at timestamptz not null default now(),
  deleted_at timestamptz
);
create unique index ix_streams_stream_uuid on public.streams (stream_uuid);

-- The global sequence. It comes before its trigger: nobody is to be told of an event that there isn't.
insert into public.streams (stream_id, stream_uuid, stream_version) values (0, '$all', 0);

create table public.events (
  event_id uuid primary key,
  event_type text not null,
  causation_id uuid,
  correlation_id uuid,
  data bytea not null,
  metadata bytea,
  created_at timestamptz not null default now()
);

create table public.stream_events (
  event_id uuid not null references public.events (event_id),
  stream_id bigint not null references public.streams (stream_id),
  stream_version bigint not null,
  original_stream_id bigint references public.streams (stream_id),
  original_stream_version bigint,
  primary key (event_id, stream_id)
);
create unique index ix_stream_events on public.stream_events (stream_id, stream_version);

create table public.subscriptions (
  subscription_id bigserial primary key,
  stream_uuid text not null,
  subscription_name text not null,
  last_seen bigint,
  created_at timestamptz not null default now()
);
create unique index ix_subscriptions_stream_uuid_subscription_name
  on public.subscriptions (stream_uuid, subscription_name);

create table public.snapshots (
  source_uuid text primary key,
  source_version bigint not null,
  source_type text not null,
  data bytea not null,
  metadata bytea,
  created_at timestamptz not null default now()
);

create table public.schema_migrations (
  major_version int not null,
  minor_version int not null,
  patch_version int not null,
  migrated_at timestamptz not null default now(),
  primary key (major_version, minor_version, patch_version)
);
insert into public.schema_migrations (major_version, minor_version, patch_version) values (1, 3, 2);

-- Events are facts: no program changes or removes one by accident.
create function public.event_store_exception() returns trigger language plpgsql as $$
begin
  raise exception 'EventStore: %', tg_argv[0];
end
$$;

create function public.event_store_delete() returns trigger language plpgsql as $$
begin
  if current_setting('eventstore.enable_hard_deletes', true) is distinct from 'on' then
    raise exception 'EventStore: %', tg_argv[0] using errcode = 'feature_not_supported';
  end if;
  return old;
end
$$;

create trigger no_update_events before update on public.events
  for each statement execute function public.event_store_exception('Cannot update events');
create trigger no_delete_events before delete on public.events
  for each statement execute function public.event_store_delete('Cannot delete events');
create trigger no_update_stream_events before update on public.stream_events
  for each statement execute function public.event_store_exception('Cannot update stream events');
create trigger no_delete_stream_events before delete on public.stream_events
  for each statement execute function public.event_store_delete('Cannot delete stream events');
create trigger no_delete_streams before delete on public.streams
  for each statement execute function public.event_store_delete('Cannot delete streams');

-- A hint that there is something to read: stream, its id, its first and last new version.
create function public.notify_events() returns trigger language plpgsql as $$
declare
  first_version bigint := 1;
begin
  if tg_op = 'UPDATE' then
    first_version := old.stream_version + 1;
  end if;
  perform pg_notify(
    tg_table_schema || '.events',
    format('%s,%s,%s,%s', new.stream_uuid, new.stream_id, first_version, new.stream_version)
  );
  return null;
end
$$;

create trigger event_notification after insert or update on public.streams
  for each row execute function public.notify_events();
