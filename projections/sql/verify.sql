-- name: primary_key
-- The columns that tell the rows of table $1 apart.
select array_agg(attname::text order by array_position(indkey::int2[], attnum))
from pg_index
join pg_attribute on attrelid = indrelid and attnum = any (indkey)
where indrelid = $1::text::regclass and indisprimary;

-- name: compare
-- Rows that differ, are missing or too many, and how many there are in all; at most $1.
select concat_ws(' ', {key}) as id, to_jsonb(shown) as shown, to_jsonb(folded) as folded, count(*) over () as total
from {shown} as shown
full join {folded} as folded using ({key})
where shown.* is distinct from folded.*
order by id
limit $1;
