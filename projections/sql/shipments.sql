-- name: tables
create table shipments (
  id uuid primary key,
  order_id uuid not null,
  status text not null check (status in ('OPEN', 'COMPLETED')),
  version bigint not null,
  position bigint not null,
  inserted_at timestamptz not null,
  updated_at timestamptz not null
);
comment on column shipments.position is 'Where ShipmentCreated is in the global sequence: pages are sorted by it.';
create unique index ix_shipments_position on shipments (position);
create index ix_shipments_status_position on shipments (status, position);
create index ix_shipments_order_id on shipments (order_id);

-- name: touched
-- The shipments $1.
select id, order_id, status, version, position, inserted_at, updated_at from shipments where id = any ($1::uuid[]);

-- name: write
-- Insert or replace shipments.
insert into shipments (id, order_id, status, version, position, inserted_at, updated_at)
select *
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::timestamptz[])
on conflict (id) do update
set order_id = excluded.order_id, status = excluded.status, version = excluded.version, position = excluded.position,
  inserted_at = excluded.inserted_at, updated_at = excluded.updated_at;
