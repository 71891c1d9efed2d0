-- Streams as a whole: links into them, and their deletion.

-- Where numbers are missing for good: versions of a link's stream, positions where stream_id is 0.
create table waybill.gaps (
  stream_id bigint not null,
  versions int8multirange not null,
  purged_stream text not null,
  purged_at timestamptz not null default now()
);
create index gaps_stream_id on waybill.gaps (stream_id);
comment on table waybill.gaps is 'what hard deletes have left: an audit can tell a purged event from a lost one';

-- Whether a stream at this version (null: there is none) is what is expected: see waybill.append.
create function waybill.fits(p_expected bigint, p_version bigint) returns boolean
language sql immutable set search_path = pg_catalog, pg_temp as $$
  select case p_expected
    when -1 then true
    when -2 then p_version is null
    when -3 then p_version is not null
    else coalesce(p_version, 0) = p_expected
  end
$$;

-- Link events into a stream, in the order given, those that are in it already left out. All or none.
--
-- Outcomes: linked (version: of the first new link; 0 links if all were there, whatever was expected), wrong_version and
-- stream_deleted (version: where the stream stands), unknown_event. Lock: the stream's row; row 0 is not touched.
create function waybill.link(p_stream text, p_expected bigint, p_event_ids uuid[])
returns table (outcome text, version bigint, links int, unknown_id uuid)
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set join_collapse_limit = 1 set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  target record;
  target_id bigint;
  stands_at bigint;
  unknown uuid;
  news uuid[];
begin
  if p_stream = '$all' then
    raise exception '$all is the global sequence: choose a stream of its own'
      using errcode = 'invalid_parameter_value';
  end if;
  select stream_id, stream_version, deleted_at into target
  from public.streams where stream_uuid = p_stream
  for no key update;
  target_id := target.stream_id;
  stands_at := coalesce(target.stream_version, 0);
  if target.deleted_at is not null then
    return query select 'stream_deleted', stands_at, 0, null::uuid;
    return;
  end if;

  select asked.event_id into unknown
  from unnest(p_event_ids) with ordinality as asked (event_id, i)
  where not exists (select from public.events where events.event_id = asked.event_id)
  order by asked.i
  limit 1;
  if unknown is not null then
    return query select 'unknown_event', stands_at, 0, unknown;
    return;
  end if;

  select array_agg(event_id order by first_asked) into news
  from (
    select asked.event_id, min(asked.i) as first_asked
    from unnest(p_event_ids) with ordinality as asked (event_id, i)
    where not exists (
      select from public.stream_events as here where here.event_id = asked.event_id and here.stream_id = target_id
    )
    group by asked.event_id
  ) as missing;
  if news is null then
    return query select 'linked', stands_at, 0, null::uuid;
    return;
  end if;
  if not waybill.fits(p_expected, target.stream_version) then
    return query select 'wrong_version', stands_at, 0, null::uuid;
    return;
  end if;

  if target_id is null then
    insert into public.streams (stream_uuid, stream_version) values (p_stream, cardinality(news))
    on conflict do nothing
    returning stream_id into target_id;
    if target_id is null then
      raise exception 'stream % was created by another transaction', p_stream using errcode = 'serialization_failure';
    end if;
  else
    update public.streams set stream_version = stands_at + cardinality(news) where stream_id = target_id;
  end if;

  -- The row in the global sequence knows where an event comes from; so a link of a link is a link to the event itself.
  insert into public.stream_events
    (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
  select asked.event_id, target_id, stands_at + asked.i, global.original_stream_id, global.original_stream_version
  from unnest(news) with ordinality as asked (event_id, i)
  join public.stream_events as global on global.event_id = asked.event_id and global.stream_id = 0;

  return query select 'linked', stands_at + 1, cardinality(news), null::uuid;
end
$$;

-- Close a stream: it can't be read or appended to any more. Its events stay in the global sequence and in links.
--
-- Outcomes, here and of purge_stream: deleted, no_stream, stream_deleted, wrong_version; version: where it stood.
create function waybill.delete_stream(p_stream text, p_expected bigint)
returns table (outcome text, version bigint)
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  target record;
  result text;
begin
  select stream_id, stream_version, deleted_at into target
  from public.streams where stream_uuid = p_stream
  for no key update;
  result := case
    when target.stream_id is null then 'no_stream'
    when target.deleted_at is not null then 'stream_deleted'
    when not waybill.fits(p_expected, target.stream_version) then 'wrong_version'
    else 'deleted'
  end;
  if result = 'deleted' then
    update public.streams set deleted_at = now() where stream_id = target.stream_id;
  end if;
  return query select result, coalesce(target.stream_version, 0);
end
$$;

-- Remove a stream for good: its events wherever they are, the links in it, and what is kept by its name.
--
-- Events that are only linked into it stay. What is kept of refused commands (waybill.answers) stays, too: it says
-- nothing of the stream, and a command that is repeated is promised the same answer for ever.
create function waybill.purge_stream(p_stream text, p_expected bigint)
returns table (outcome text, version bigint)
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  target record;
  result text;
  its_events uuid[];
begin
  select stream_id, stream_version into target
  from public.streams where stream_uuid = p_stream
  for update;
  result := case
    when target.stream_id is null then 'no_stream'
    when not waybill.fits(p_expected, target.stream_version) then 'wrong_version'
    else 'deleted'
  end;
  if result = 'deleted' then
    its_events := array(
      select event_id from public.stream_events
      where stream_id = target.stream_id and original_stream_id = target.stream_id
    );
    insert into waybill.gaps (stream_id, versions, purged_stream)
    select stream_id, range_agg(int8range(stream_version, stream_version, '[]')), p_stream
    from public.stream_events
    where event_id = any (its_events) and stream_id <> target.stream_id
    group by stream_id;

    -- In this transaction, so never for the next user of the connection, and only for these lines of it.
    perform set_config('eventstore.enable_hard_deletes', 'on', true);
    delete from public.stream_events where stream_id = target.stream_id or event_id = any (its_events);
    delete from public.events where event_id = any (its_events);
    delete from public.streams where stream_id = target.stream_id;
    perform set_config('eventstore.enable_hard_deletes', 'off', true);
    delete from public.snapshots where source_uuid = p_stream;
    -- A new stream of this name would begin at 1 again: a checkpoint in this one must not hide its first events.
    delete from public.subscriptions where stream_uuid = p_stream;
    if p_stream ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
      delete from waybill.claims where owner = p_stream::uuid;
    end if;
  end if;
  return query select result, coalesce(target.stream_version, 0);
end
$$;

-- Refused by privilege and not by a trigger, so that schema public stays as it is: even the owner has to grant it to
-- himself first.
do $$
declare
  held record;
begin
  for held in
    select oid::regclass as name, relowner::regrole as owner
    from pg_class
    where relkind = 'r' and (
      relnamespace = 'waybill'::regnamespace
      or relnamespace = 'public'::regnamespace
        and relname in ('events', 'stream_events', 'streams', 'subscriptions', 'snapshots', 'schema_migrations')
    )
  loop
    execute format('revoke truncate on %s from %s', held.name, held.owner);
  end loop;
end
$$;
