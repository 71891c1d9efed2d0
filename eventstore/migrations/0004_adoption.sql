-- What Waybill knows of a database that another program has filled (`waybill adopt`).

create table waybill.adoption (
  adopted_at timestamptz not null default now(),
  report jsonb not null
);
create unique index adoption_once on waybill.adoption ((true));
comment on table waybill.adoption is
  'no row: Waybill made this database itself. What the report found is history: `waybill verify` doesn''t complain of it';

-- Streams of orders and shipments whose names are their ids in another form: capitals, no hyphens.
create table waybill.stream_names (
  id uuid primary key,
  stream_uuid text not null
);
