-- Runs once, when the volume is empty: databases for Waybill and for Temporal, each with an owner who is no superuser.
\getenv waybill_password DATABASE_PASSWORD
\getenv temporal_password TEMPORAL_DATABASE_PASSWORD

create role waybill login password :'waybill_password';
create database event_store owner waybill;
create database read_store owner waybill;

create role temporal login password :'temporal_password';
create database temporal owner temporal;
create database temporal_visibility owner temporal;

-- Neither is to look into the other's.
revoke all on database event_store, read_store, temporal, temporal_visibility from public;
