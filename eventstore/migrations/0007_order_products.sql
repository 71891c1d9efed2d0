-- The products of long orders, so that completing one doesn't need all of its events: what those up to a version say.
-- It goes with its stream, without a foreign key: that would be a trigger in schema public. Numbers of streams are never
-- used again, so rows of one that another program has purged do no harm. Short orders have no rows.
create table waybill.products_kept (
  stream_id bigint primary key,
  version bigint not null
);
create table waybill.order_products (
  stream_id bigint references waybill.products_kept (stream_id) on delete cascade,
  product_id uuid,
  primary key (stream_id, product_id)
);

-- Close a stream: see 0003_streams.sql. The global sequence is none to close.
create or replace function waybill.delete_stream(p_stream text, p_expected bigint)
returns table (outcome text, version bigint)
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  target record;
  result text;
begin
  if p_stream = '$all' then
    raise exception '$all is the global sequence: it is not deleted' using errcode = 'invalid_parameter_value';
  end if;
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
create or replace function waybill.purge_stream(p_stream text, p_expected bigint)
returns table (outcome text, version bigint)
language plpgsql
set search_path = pg_catalog, pg_temp as $$
declare
  target record;
  result text;
  its_events uuid[];
begin
  if p_stream = '$all' then
    raise exception '$all is the global sequence: it is not deleted' using errcode = 'invalid_parameter_value';
  end if;
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
    delete from waybill.products_kept where stream_id = target.stream_id;
    -- A new stream of this name would begin at 1 again: a checkpoint in this one must not hide its first events.
    delete from public.subscriptions where stream_uuid = p_stream;
    if p_stream ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' then
      delete from waybill.claims where owner = p_stream::uuid;
    end if;
  end if;
  return query select result, coalesce(target.stream_version, 0);
end
$$;

-- What 0003_streams.sql does for the tables of its time, for those that have come since.
do $$
declare
  held record;
begin
  for held in
    select oid::regclass as name, relowner::regrole as owner
    from pg_class
    where relkind = 'r' and relnamespace = 'waybill'::regnamespace
  loop
    execute format('revoke truncate on %s from %s', held.name, held.owner);
  end loop;
end
$$;
