-- What logins are to be members of, so that each may do what it is there for and nothing else. It can be run again and
-- again; whoever may not create roles finds them created by somebody who may.

do $$
declare
  wanted text;
begin
  foreach wanted in array array['waybill_owner', 'waybill_writer', 'waybill_projector', 'waybill_reader'] loop
    if to_regrole(wanted) is null then
      begin
        execute format('create role %I nologin', wanted);
        execute format('grant %I to current_user', wanted);
      exception when duplicate_object or unique_violation then
        null; -- Roles belong to all databases of a server: another one's migration was faster.
      end;
    end if;
  end loop;
end
$$;

-- Whoever has the role may migrate schema waybill. Schema public stays with whom it belongs to.
do $$
declare
  what text;
begin
  if not pg_has_role('waybill_owner', 'member') then
    return;
  end if;
  execute format('grant create on database %I to waybill_owner', current_database());
  alter schema waybill owner to waybill_owner;
  for what in
    select format('table %s', oid::regclass) from pg_class
    where relnamespace = 'waybill'::regnamespace and relkind = 'r'
    union all
    select format('function %s', oid::regprocedure) from pg_proc where pronamespace = 'waybill'::regnamespace
  loop
    execute format('alter %s owner to waybill_owner', what);
  end loop;
end
$$;

-- Reading is everybody's.
grant usage on schema public, waybill to waybill_owner, waybill_writer, waybill_projector, waybill_reader;
grant select on all tables in schema waybill to waybill_owner, waybill_writer, waybill_projector, waybill_reader;
grant select on public.streams, public.events, public.stream_events, public.subscriptions, public.snapshots,
  public.schema_migrations
to waybill_owner, waybill_writer, waybill_projector, waybill_reader;

-- The writer appends, links, closes streams, and keeps what belongs to commands.
grant insert, update (stream_version, deleted_at) on public.streams to waybill_writer, waybill_owner;
grant insert on public.events, public.stream_events to waybill_writer, waybill_owner;
grant usage on sequence public.streams_stream_id_seq to waybill_writer, waybill_owner;
grant insert, update on public.snapshots to waybill_writer, waybill_owner;
grant insert, update on waybill.products_kept to waybill_writer, waybill_owner;
grant insert on waybill.order_products to waybill_writer, waybill_owner;
grant insert, update, delete on waybill.claims to waybill_writer, waybill_owner;
grant insert on waybill.answers to waybill_writer, waybill_owner;
grant insert, delete on waybill.blocked_products to waybill_writer, waybill_owner;
-- Of a parked event it may say what is to become of it.
grant update (state, retry_at, discarded_at) on waybill.parked to waybill_writer;
revoke execute on all functions in schema waybill from public;
grant execute on function
  waybill.append, waybill.fits, waybill.reserve, waybill.link, waybill.delete_stream
to waybill_writer, waybill_owner;

-- The projector remembers how far it has got, and what it has left behind.
grant insert, update (last_seen) on public.subscriptions to waybill_projector, waybill_owner;
grant insert, update, delete on waybill.parked to waybill_projector, waybill_owner;
grant usage on sequence public.subscriptions_subscription_id_seq to waybill_projector, waybill_owner;

-- The owner removes streams for good.
grant delete on public.streams, public.events, public.stream_events, public.subscriptions, public.snapshots
to waybill_owner;
grant insert on waybill.gaps to waybill_owner;
grant execute on function waybill.purge_stream to waybill_owner;
