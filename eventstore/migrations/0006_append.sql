-- waybill.append in a leaner form: a batch doesn't pay for repetitions, new streams or known ones that aren't in it.

-- Append to several streams in one transaction. Each append has its own outcome and never spoils its neighbour's.
--
-- Appends are numbered from 1, in the order in which they are evaluated. Streams are distinct. Expected versions:
-- -1 any, -2 no stream, -3 stream exists, else the version. Locks: stream rows by id, claims by key, row 0 last.
-- A race that only a new snapshot can settle (another transaction created a stream, or wrote an event id, between
-- our look and our insert) raises unique_violation or serialization_failure: nothing is written, call again.
create or replace function waybill.append(
  p_streams text[],
  p_append_stream int[], p_append_expected bigint[], p_append_events int[],
  p_event_append int[], p_event_ids uuid[], p_event_types text[], p_causation_ids uuid[], p_correlation_ids uuid[],
  p_data bytea[], p_metadata bytea[],
  p_claim_append int[], p_claim_kinds text[], p_claim_keys text[], p_claim_owners uuid[], p_claim_confirm boolean[]
) returns table (outcome text, first_version bigint, first_position bigint, created_at timestamptz)
language plpgsql
set search_path = pg_catalog, pg_temp
-- Every look-up here is by key, in the order in which it is written. A plan that was made while the tables were small,
-- or before they were analysed, must not scan them later on.
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set join_collapse_limit = 1 set plan_cache_mode = force_generic_plan as $$
#variable_conflict use_column
declare
  appends constant int := cardinality(p_append_stream);
  stream_ids bigint[] := array_fill(null::bigint, array[cardinality(p_streams)]);
  versions bigint[] := array_fill(null::bigint, array[cardinality(p_streams)]);
  before bigint[];
  deleted boolean[] := array_fill(false, array[cardinality(p_streams)]);
  outcomes text[] := array_fill(null::text, array[appends]);
  first_versions bigint[] := array_fill(null::bigint, array[appends]);
  first_positions bigint[] := array_fill(null::bigint, array[appends]);
  first_event int[] := array_fill(0, array[appends]);
  times timestamptz[] := array_fill(null::timestamptz, array[appends]);
  total bigint := 0;
  grown boolean := false;
  next_event int := 1;
  head bigint;
  now_at timestamptz;
  s int;
  expected bigint;
  fits boolean;
  r record;
begin
  if '$all' = any (p_streams) then
    raise exception '$all is the global sequence: choose a stream of its own'
      using errcode = 'invalid_parameter_value';
  end if;
  for r in
    select wanted.i, held.stream_id, held.stream_version, held.deleted_at
    from unnest(p_streams) with ordinality as wanted (stream_uuid, i)
    join public.streams as held using (stream_uuid)
    order by held.stream_id
    for no key update of held
  loop
    stream_ids[r.i] := r.stream_id;
    versions[r.i] := r.stream_version;
    deleted[r.i] := r.deleted_at is not null;
  end loop;
  before := versions;

  -- Events that exist already: the whole append again, or somebody else's ids.
  if exists (select from public.events where event_id = any (p_event_ids)) then
    for r in
      select
        asked.append,
        count(*) = p_append_events[asked.append]
          -- By name: the stream may have come while this statement waited for another one's row.
          and bool_and(home.stream_uuid = p_streams[p_append_stream[asked.append]])
          and max(own.stream_version - asked.i) = min(own.stream_version - asked.i) as same,
        min(own.stream_version) as version, min(global.stream_version) as position, min(event.created_at) as at
      from unnest(p_event_append, p_event_ids) with ordinality as asked (append, event_id, i)
      join public.events as event using (event_id)
      join public.stream_events as own on own.event_id = event.event_id and own.stream_id = own.original_stream_id
      join public.streams as home on home.stream_id = own.stream_id
      join public.stream_events as global on global.event_id = event.event_id and global.stream_id = 0
      group by asked.append
    loop
      outcomes[r.append] := case when r.same then 'repeated' else 'duplicate_event' end;
      first_versions[r.append] := r.version;
      first_positions[r.append] := r.position;
      times[r.append] := r.at;
    end loop;
  end if;

  if cardinality(p_claim_append) > 0 then
    perform 1
    from waybill.claims as held
    join unnest(p_claim_kinds, p_claim_keys) as asked (kind, key) using (kind, key)
    order by held.kind, held.key
    for update of held;
    for r in
      select distinct asked.append
      from unnest(p_claim_append, p_claim_kinds, p_claim_keys, p_claim_owners, p_claim_confirm)
        as asked (append, kind, key, owner, confirm)
      left join waybill.claims as held using (kind, key)
      where asked.confirm and held.owner is distinct from asked.owner
    loop
      outcomes[r.append] := coalesce(outcomes[r.append], 'claim_lost');
    end loop;
  end if;

  for a in 1 .. appends loop
    first_event[a] := next_event;
    next_event := next_event + p_append_events[a];
    continue when outcomes[a] = 'repeated';
    s := p_append_stream[a];
    expected := p_append_expected[a];
    fits := case expected
      when -1 then true
      when -2 then versions[s] is null
      when -3 then versions[s] is not null
      else coalesce(versions[s], 0) = expected
    end;
    outcomes[a] := case
      when deleted[s] then 'stream_deleted'
      when outcomes[a] is not null then outcomes[a]
      when not fits then 'wrong_version'
      else 'appended'
    end;
    if outcomes[a] = 'appended' then
      first_versions[a] := coalesce(versions[s], 0) + 1;
      first_positions[a] := total + 1;
      grown := grown or stream_ids[s] is not null;
      versions[s] := coalesce(versions[s], 0) + p_append_events[a];
      total := total + p_append_events[a];
    else
      -- What the caller learns from a refusal is where the stream stands.
      first_versions[a] := coalesce(versions[s], 0);
    end if;
  end loop;

  if total > 0 then
    if array_position(stream_ids, null) is not null then
      -- A stream is created with its final version: one notification says it all.
      s := 0;
      for r in
        insert into public.streams (stream_uuid, stream_version)
        select p_streams[i], versions[i]
        from generate_subscripts(p_streams, 1) as i
        where stream_ids[i] is null and versions[i] > 0
        order by i
        on conflict do nothing
        returning stream_uuid, stream_id
      loop
        loop
          s := s + 1;
          exit when p_streams[s] = r.stream_uuid;
        end loop;
        stream_ids[s] := r.stream_id;
      end loop;

      for i in 1 .. cardinality(p_streams) loop
        if stream_ids[i] is null and versions[i] > 0 then
          raise exception 'stream % was created by another transaction', p_streams[i]
            using errcode = 'serialization_failure';
        end if;
      end loop;
    end if;

    if grown then
      update public.streams as held
      set stream_version = versions[i]
      from generate_subscripts(p_streams, 1) as i
      where held.stream_id = stream_ids[i] and versions[i] > before[i];
    end if;

    -- From here on, every other append in the database waits for this transaction.
    update public.streams set stream_version = stream_version + total
    where stream_id = 0
    returning stream_version - total into head;

    with moment as materialized (
      -- The last event that there is: after a hard delete, the one at the head may be gone.
      select greatest(clock_timestamp(), (
        select event.created_at
        from public.stream_events as last
        join public.events as event using (event_id)
        where last.stream_id = 0
        order by last.stream_version desc
        limit 1
      )) as at
    ), stored as (
      insert into public.events (event_id, event_type, causation_id, correlation_id, data, metadata, created_at)
      select event_id, event_type, causation_id, correlation_id, data, metadata, moment.at
      from moment
      cross join unnest(
        p_event_append, p_event_ids, p_event_types, p_causation_ids, p_correlation_ids, p_data, p_metadata
      ) as asked (append, event_id, event_type, causation_id, correlation_id, data, metadata)
      where outcomes[asked.append] = 'appended'
    ), placed as (
      insert into public.stream_events
        (event_id, stream_id, stream_version, original_stream_id, original_stream_version)
      select asked.event_id, target.stream_id, target.version, own.stream_id, own.version
      from unnest(p_event_append, p_event_ids) with ordinality as asked (append, event_id, i)
      cross join lateral (
        select
          stream_ids[p_append_stream[asked.append]], first_versions[asked.append] + asked.i - first_event[asked.append]
      ) as own (stream_id, version)
      cross join lateral (
        values (own.stream_id, own.version),
          (0::bigint, head + first_positions[asked.append] + asked.i - first_event[asked.append])
      ) as target (stream_id, version)
      where outcomes[asked.append] = 'appended'
    )
    select moment.at into now_at from moment;
  end if;

  if cardinality(p_claim_append) > 0 then
    update waybill.claims as held set lease_until = null
    from unnest(p_claim_append, p_claim_kinds, p_claim_keys, p_claim_confirm) as asked (append, kind, key, confirm)
    where held.kind = asked.kind and held.key = asked.key and asked.confirm and outcomes[asked.append] = 'appended';

    delete from waybill.claims as held
    using unnest(p_claim_append, p_claim_kinds, p_claim_keys, p_claim_owners, p_claim_confirm)
      as asked (append, kind, key, owner, confirm)
    where held.kind = asked.kind and held.key = asked.key and held.owner = asked.owner
      and not asked.confirm and outcomes[asked.append] = 'appended';
  end if;

  return query
  select
    outcomes[a], first_versions[a],
    case when outcomes[a] = 'appended' then head + first_positions[a] else first_positions[a] end,
    case when outcomes[a] = 'appended' then now_at else times[a] end
  from generate_series(1, appends) as a
  order by a;
end
$$;
