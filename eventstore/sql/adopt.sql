-- name: layout
-- What a schema has of the event store's tables $2, a line each. $1 schema.
with tables as (
  select pg_class.oid, relname from pg_class
  where relnamespace = to_regnamespace($1) and relname = any ($2) and relkind = 'r'
)
select format('column %s.%s %s%s%s', relname, attname, format_type(atttypid, atttypmod),
  case when attnotnull then ' not null' else '' end, ' default ' || pg_get_expr(adbin, adrelid)) as line
from tables
join pg_attribute on attrelid = tables.oid and attnum > 0 and not attisdropped
left join pg_attrdef on adrelid = attrelid and adnum = attnum
union all
select pg_get_indexdef(indexrelid) || case when indisvalid then '' else ' (invalid)' end
from tables join pg_index on indrelid = tables.oid
where indisunique
union all
select format('%s on %s: %s', conname, relname, pg_get_constraintdef(pg_constraint.oid))
from tables join pg_constraint on conrelid = tables.oid
where contype = 'f'
union all
select pg_get_triggerdef(pg_trigger.oid) || case tgenabled when 'O' then '' else ' (not enabled)' end
from tables join pg_trigger on tgrelid = tables.oid
where not tgisinternal;

-- name: faults
-- What the layout says of rows: the global sequence, and the version of the schema.
select 'missing: the stream $all with the id 0' as line
where not exists (select from public.streams where stream_id = 0 and stream_uuid = '$all')
union all
select format('not of the layout: its schema is of version %s', string_agg(concat_ws('.', major_version, minor_version, patch_version), ', '))
from public.schema_migrations
having not bool_or((major_version, minor_version, patch_version) = (1, 3, 2));

-- name: hold_still
-- Nobody appends until this transaction is over: an append ends with the update of this row.
select 1 from public.streams where stream_id = 0 for update;

-- name: claim_numbers
-- Every order that lives claims its number; of those with the same number, the first gets it.
insert into waybill.claims (kind, key, owner, command_id)
select distinct on (number) 'order_number', number, id, id
from audited_orders
where status <> 'DELETED' and number is not null
order by number, position;

-- name: claim_shipments
-- Every order that has a shipment of a made-up id claims it; of several, the first.
insert into waybill.claims (kind, key, owner, command_id)
select distinct on (order_id) 'shipment', order_id::text, id, id
from audited_shipments
where not derived
order by order_id, position;

-- name: name_streams
-- Streams whose name is their id in another form, unless another stream is of that id too.
insert into waybill.stream_names (id, stream_uuid)
select id, min(stream_uuid)
from (
  select id, stream_uuid from audited_orders union all select id, stream_uuid from audited_shipments
) as audited
group by id
having count(*) = 1 and min(stream_uuid) <> id::text;

-- name: claims
-- How many claims there are.
select count(*) from waybill.claims;

-- name: subscriptions
-- The other program's subscriptions, which stay as they are.
select stream_uuid as stream, subscription_name as name, last_seen from public.subscriptions order by 1, 2;

-- name: record
-- Note what was found. $1 the report.
insert into waybill.adoption (report) values ($1) returning adopted_at;

-- name: adoption
-- What was found when the database was adopted, and when that was.
select report, adopted_at from waybill.adoption;

-- name: stream_names
-- Streams that are not named by their id in its usual form.
select id, stream_uuid from waybill.stream_names;

-- name: reported
-- What was said, when the database was adopted, that it can't be read: events, streams that are named by no id, types that
-- nobody here knows.
select finding ->> 'subject' as subject
from waybill.adoption, jsonb_array_elements(report -> 'findings') as finding
where finding ->> 'kind' in ('undecodable-event', 'never-existed')
  or finding ->> 'kind' = 'stream-name'
    and length(regexp_replace(finding ->> 'subject', '[^0-9a-fA-F]', '', 'g')) <> 32
union all
select jsonb_object_keys(report -> 'unknown_types') from waybill.adoption;
