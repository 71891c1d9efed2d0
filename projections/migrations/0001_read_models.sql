-- Schema public: what can be asked. Every table can be thrown away and projected again, so none refers to another.

create table public.orders (
  id uuid primary key,
  order_number text not null,
  business_partner text not null,
  status text not null check (status in ('OPEN', 'COMPLETED', 'SHIPPED')),
  version bigint not null,
  shipment_id uuid,
  shipment_version bigint,
  position bigint not null,
  inserted_at timestamptz not null,
  updated_at timestamptz not null
);
comment on column public.orders.version is 'The version of the order''s stream.';
comment on column public.orders.position is 'Where OrderCreated is in the global sequence: pages are sorted by it.';
create unique index ix_orders_position on public.orders (position);
create index ix_orders_status_position on public.orders (status, position);
create index ix_orders_business_partner_position on public.orders (business_partner, position);
create index ix_orders_order_number on public.orders (order_number);
-- The projection finds the order of a shipment that has gone out.
create index ix_orders_shipment_id on public.orders (shipment_id) where shipment_id is not null;

create table public.order_items (
  id uuid primary key,
  order_id uuid not null,
  line int not null,
  product_id uuid not null,
  quantity numeric not null,
  uom text not null,
  inserted_at timestamptz not null,
  updated_at timestamptz not null
);
comment on column public.order_items.line is 'From 0, in the order in which the items were added.';
create unique index ix_order_items_order_id_line on public.order_items (order_id, line);
create index ix_order_items_product_id_order_id on public.order_items (product_id, order_id);

create table public.shipments (
  id uuid primary key,
  order_id uuid not null,
  status text not null check (status in ('OPEN', 'COMPLETED')),
  version bigint not null,
  position bigint not null,
  inserted_at timestamptz not null,
  updated_at timestamptz not null
);
comment on column public.shipments.position is 'Where ShipmentCreated is in the global sequence: pages are sorted by it.';
create unique index ix_shipments_position on public.shipments (position);
create index ix_shipments_status_position on public.shipments (status, position);
create index ix_shipments_order_id on public.shipments (order_id);

create table public.projection_versions (
  projection_name text primary key,
  last_seen_event_number bigint not null default 0,
  inserted_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table public.projection_versions is 'How far in the global sequence each projection has come.';

-- Schema waybill: bookkeeping.

create table waybill.projections (
  projection_name text primary key,
  version int not null,
  owner text,
  lease_until timestamptz
);
comment on table waybill.projections is
  'Who runs each projection. An owner whose lease has run out is taken for dead, and another may take over.';
comment on column waybill.projections.version is 'The version of the projection''s code that the rows were made by.';
