-- The rows of one version of a projection are a build of it. Several builds stand side by side, each in a schema.

alter table waybill.projections
  add projection text,
  add stage text not null default 'live' check (stage in ('live', 'next', 'retired', 'leftover')),
  add tables text[],
  add rate real not null default 0,
  add started_at timestamptz not null default now();

-- The tables of the first migration are builds, too, whether they have been filled yet or not.
insert into waybill.projections (projection_name, version) values ('orders', 1), ('shipments', 1)
on conflict do nothing;
insert into public.projection_versions (projection_name) values ('orders'), ('shipments')
on conflict do nothing;
update waybill.projections
set projection = projection_name,
  tables = case projection_name when 'orders' then '{orders,order_items}' else array[projection_name] end;

alter table waybill.projections alter projection set not null, alter tables set not null;
create unique index projections_one_live on waybill.projections (projection) where stage = 'live';
create unique index projections_one_next on waybill.projections (projection) where stage = 'next';

comment on table waybill.projections is
  'The builds of the projections, and who runs each. An owner whose lease has run out is taken for dead, and another '
  'may take over.';
comment on column waybill.projections.projection_name is
  'The build: what it is called in projection_versions and in parked. The schema of its tables, unless it is live.';
comment on column waybill.projections.stage is
  'live: in schema public; next: being built beside it; retired: replaced by another version, kept for code of its own; '
  'leftover: replaced by the same version, to be dropped';
comment on column waybill.projections.lease_until is 'Without an owner: when it was given back.';
comment on column waybill.projections.rate is 'Events a second, lately.';
