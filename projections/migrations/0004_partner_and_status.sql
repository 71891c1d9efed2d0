-- Pages of one business partner's orders of one status, in the order of the index. A build that is made anew has it.
create index if not exists ix_orders_business_partner_status_position
on public.orders (business_partner, status, position);
