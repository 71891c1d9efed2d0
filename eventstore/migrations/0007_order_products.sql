-- The products of long orders, so that completing one doesn't need all of its events: what those up to a version say.
-- It goes with its stream. Short orders have no rows.
create table waybill.products_kept (
  stream_id bigint primary key references public.streams (stream_id) on delete cascade,
  version bigint not null
);
create table waybill.order_products (
  stream_id bigint references waybill.products_kept (stream_id) on delete cascade,
  product_id uuid,
  primary key (stream_id, product_id)
);
