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
